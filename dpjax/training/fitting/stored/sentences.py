"""How a run with a folder ends that is not at its end, and how it goes on."""

from __future__ import annotations

from dpjax.training.stopped import RunInterrupted

AGAIN = "fit with resume=True"
GOES_ON = "goes on from the state that was stored last"


def interrupted(step: int, num_steps: int, number: int) -> RunInterrupted:
    """Returns what a signal raises after a step whose state is stored.

    Args:
        step: how many steps are done.
        num_steps: how many there are.
        number: of the signal.
    """
    if step == num_steps:
        words = "stopped after the last step, with everything written"
    else:
        words = f"stopped after step {step} of {num_steps}; {AGAIN} goes on from there"
    return RunInterrupted(words, step, number)
