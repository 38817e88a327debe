"""Errors of a fine-tuning run in the option names of `dpjax federated`."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

# A federated run is a fine-tuning run with these options made from others: what is said of the
# first is about the second. Longer names come first.
NAMES = {
    "training.microbatch_size / privacy.records_per_owner": "clients.clients_at_once",
    "training.checkpoint_every_steps": "training.checkpoint_every_rounds",
    "training.expected_batch_size": "clients.cohort_size",
    "privacy.records_per_owner": "clients.records_per_client",
    "training.microbatch_size": "clients.clients_at_once",
    "train_data.owner_column": "clients.column",
    "training.learning_rate": "server.learning_rate",
    "training.num_epochs": "clients.num_rounds",
    "training.num_steps": "clients.num_rounds",
    "training.optimizer": "server.optimizer",
    "training.momentum": "server.momentum",
    "owner_column": "clients.column",
}
_VALUES = {"server.optimizer=adam": "server.optimizer=fedadam"} | {
    "server.optimizer=sgd": "server.optimizer=fedavg"
}
# No part of a longer name, such as eval_data.owner_column.
_PATTERN = re.compile(rf"(?<![\w./])(?:{'|'.join(map(re.escape, NAMES))})(?!\w)")


def in_names_of_command(message: str, *, of_held_out: bool = False) -> str:
    """Returns a message with the options called what `dpjax federated` calls them.

    Args:
        message: of an error.
        of_held_out: whether it is about the held-out data, whose owner_column is an option here.

    Example:
        >>> in_names_of_command("training.num_steps must be at least 1, got 0")
        'clients.num_rounds must be at least 1, got 0'
        >>> in_names_of_command("eval_data.owner_column='author' is missing")
        "eval_data.owner_column='author' is missing"
    """

    def name(found: re.Match[str]) -> str:
        if of_held_out and found[0] == "owner_column":
            return "eval_data.owner_column"
        return NAMES[found[0]]

    said = _PATTERN.sub(name, message)
    for value, other in _VALUES.items():
        said = re.sub(rf"{re.escape(value)}\b", other, said)
    return said


@contextlib.contextmanager
def naming_options(held_out: str | None = None) -> Iterator[None]:
    """Lets errors through with the options called what `dpjax federated` calls them.

    Args:
        held_out: the path of the held-out data, with which errors about it begin.
    """
    try:
        yield
    except Exception as error:
        if error.args and isinstance(error.args[0], str):
            message = error.args[0]
            of_held_out = held_out is not None and message.startswith(held_out)
            said = in_names_of_command(message, of_held_out=of_held_out)
            error.args = (said, *error.args[1:])
        raise
