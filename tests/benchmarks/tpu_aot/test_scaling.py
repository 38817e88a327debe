"""More chips on paper, and the comparison of exchanges."""

import pytest

from benchmarks.aot.compiled import Refusal
from benchmarks.aot.counts import Collective
from benchmarks.aot.measure import StepCost, added_exchanges, ratios
from benchmarks.tpu_scaling import Options, on_paper

SMALL = Collective("all-reduce", size=64, group=4, times=1, in_loop=False)
LARGE = Collective("all-reduce", size=4096, group=4, times=3, in_loop=True)
GATHER = Collective("all-gather", size=4096, group=4, times=1, in_loop=False)


def cost(name, collectives, peak=100, refusal=None):
    return StepCost(
        name, peak, peak, refusal, 10, collectives, {"model": 1000}, {"model": 2e6}, 1.0, 0
    )


def test_more_chips_on_paper_send_hardly_more():
    row = {"chips": 256, "records": 2048, "bytes_summed": 1000, "bytes_sent": 1992.2, "ratio": 1.1}
    paper = on_paper(row, 4096)
    assert paper["records"] == 8 * 4096
    assert paper["bytes_sent"] == pytest.approx(2000, rel=1e-3)
    assert (paper["ratio"], paper["compiled"]) == (1.1, False)
    with pytest.raises(ValueError, match="on_paper must be at least 2"):
        Options(on_paper=1)


def test_numbers_per_record_are_told_from_larger_exchanges():
    added = added_exchanges(
        cost("ordinary", [LARGE]), cost("auto", [LARGE, SMALL, SMALL, GATHER]), batch_size=4
    )
    assert added["numbers_per_record"] == 2
    assert added["larger"] == {
        "all-gather": {"number": [0, 1], "bytes": [0, 4096]},
        "all-reduce": {"number": [3, 3], "bytes": [12288, 12288]},
    }


def test_a_strategy_that_does_not_fit_has_no_ratio():
    refused = cost("materialize", [], peak=None, refusal=Refusal(2, 1))
    found = ratios(cost("ordinary", []), [cost("auto", [], peak=120), refused])
    assert found["peak_memory"] == {"auto": 1.2, "materialize": None}
    assert set(found["memory_traffic"]) == {"auto"}
    assert refused.to_dict()["fits"] is False
