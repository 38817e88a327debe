"""What the lead sends to the other processes arrives as it is, errors too."""

from pathlib import Path

import jax
import numpy as np
import pytest

from dpjax.training.devices.lead import agree, from_lead, is_lead, placed_from_lead, whole_on_host
from tests.support.processes import in_two_processes

SCRIPT = Path(__file__).with_name("leads.py")


@pytest.mark.slow
def test_two_processes_have_what_the_lead_has(tmp_path):
    one, other = in_two_processes(SCRIPT, tmp_path / "states")
    assert one.pop("error") == "FileExistsError: the folder is not empty"
    assert other.pop("error") == "FileExistsError: process 0: the folder is not empty"
    assert one.pop("division") == "ZeroDivisionError: integer division or modulo by zero"
    assert other.pop("division") == "RuntimeError: process 0: integer division or modulo by zero"
    assert one.pop("failure") == "FileExistsError: it was there"
    assert other.pop("failure") == "FileExistsError: process 0: it was there"
    assert (one.pop("called"), other.pop("called")) == ([0], [])
    assert one == other
    assert one["value"] == {"from": 0}
    assert one["agreed"] == [15, True, False] and one["nothing"] == [None, False, False]
    bits = np.array([-0.0, 1.5, np.nan, -np.inf], np.float32).view(np.uint32).tolist()
    assert one["bits"] == one["restored"] == bits and one["is spread"] == 4
    assert one["state"] == [7, bits]
    assert one["key"] == jax.random.key_data(jax.random.key(3)).tolist()
    assert one["host"] == [0, 1, 2]


def test_a_single_process_is_the_lead_and_asks_nobody():
    thing = object()
    assert is_lead() and from_lead(lambda: thing) is thing
    assert agree(signal=2, stores=True) == (2, True, False)
    state = {"w": jax.numpy.arange(3.0), "key": jax.random.key(3)}
    stored = whole_on_host(state)
    again = placed_from_lead(stored, jax.tree.map(jax.numpy.zeros_like, state))
    assert again["w"].tolist() == [0, 1, 2]
    assert jax.random.key_data(again["key"]).tolist() == stored["key"].tolist()
    with pytest.raises(FileExistsError, match="taken"):
        from_lead(lambda: (_ for _ in ()).throw(FileExistsError("taken")))
