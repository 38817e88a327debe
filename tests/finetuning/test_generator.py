"""Runs with privacy.generator=chacha20: another noise, resumable, and said in the report."""

import json

import pytest

import dpjax
from tests.support.runs import weights


@pytest.mark.slow
def test_a_resumed_run_keeps_its_generator(cheap_options, whole, stop_after, tmp_path):
    options = cheap_options | {"output_dir": tmp_path / "run"}
    with_cipher = options | {"privacy": options["privacy"] | {"generator": "chacha20"}}
    stop_after(2, **with_cipher)
    with pytest.raises(ValueError, match=r"privacy\.generator=chacha20, now it is threefry"):
        dpjax.finetune(**options, resume=True)
    run = dpjax.finetune(**with_cipher, resume=True)
    assert run.epsilon == whole.epsilon
    assert weights(run.output_dir) != weights(whole.output_dir)
    report = json.loads((run.output_dir / "privacy.json").read_text())
    assert "four ChaCha20 generators of 256-bit keys" in report["randomness"]["generators"]
    assert any("ChaCha20 generators draw it" in line for line in report["assumptions"])
    again = dpjax.finetune(**with_cipher | {"output_dir": tmp_path / "again"})
    assert weights(run.output_dir) == weights(again.output_dir)


def test_another_name_is_refused(cheap_options, tmp_path):
    privacy = cheap_options["privacy"] | {"generator": "chacha"}
    options = cheap_options | {"privacy": privacy, "output_dir": tmp_path}
    with pytest.raises(TypeError, match=r"privacy\.generator.* Did you mean 'chacha20'"):
        dpjax.finetune(**options)
