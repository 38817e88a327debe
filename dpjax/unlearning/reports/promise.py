"""What the run has promised for the records to forget, and what unlearning does to promises."""

from __future__ import annotations

from typing import Any

from dpjax_accounting import GroupOfRecords, mechanism_from_dict

from dpjax.unlearning.setup.tuned_run import TunedRun

_PRIVATE = (
    "PRIVATE: the adapter, this report and the retrained run were computed from training records "
    "without noise. Do not publish them, and choose nothing that is published by them."
)
_CERTIFIED = (
    "PRIVATE: this report and the retrained run were computed from training records without noise. "
    "Do not publish them, and choose nothing that is published by them. The adapter alone is "
    "certified, for the forget set alone: it has no guarantee for the retained records."
)
_OF_TRAINING_FILE = (
    "The training file is taken for the one that the run has read. Of a private run the number of "
    "its records is compared, of others nothing.",
    "Copies of the original adapter or model keep what they have learnt; delete them yourself. "
    "Records that say the same in other words are not in the forget set.",
)
_NOT_COVERED = (
    "The adapter that has unlearned has no differential privacy, whatever the run had: its steps "
    "have read the forget set and the retained records without clipping and noise.",
    "Nothing is certified: the measures compare with one retrained model, by one attack. That they "
    "show no difference does not prove that there is none.",
    "Whoever has both adapters, or only the unlearned one and candidates, may find out which "
    "records were to be forgotten.",
    *_OF_TRAINING_FILE,
)
_NOT_CERTIFIED = (
    "The measures compare with one retrained model, by one attack. They show what the certificate "
    "costs, and add nothing to it.",
    *_OF_TRAINING_FILE,
)


def warning_of(*, is_certified: bool) -> str:
    """Returns what whoever opens the folder must know before anything else."""
    return _CERTIFIED if is_certified else _PRIVATE


def not_covered(*, is_certified: bool) -> list[str]:
    """Returns what the results do not say, a sentence each."""
    return list(_NOT_CERTIFIED if is_certified else _NOT_COVERED)


_MOST_RECORDS = 1000


def describe_promise(run: TunedRun, num_forgotten: int) -> dict[str, Any]:
    """Says what the run guarantees for all records to forget together, without any unlearning.

    A run that is (ε, δ)-differentially private bounds the difference that k records make together
    (`dpjax_accounting.GroupOfRecords`).

    Args:
        run: whose privacy.json is read.
        num_forgotten: k.

    Returns:
        `epsilon` and `delta` of the group, None where there is none to state, and a `statement`.
    """
    guarantee, nothing = run.privacy["guarantee"], {"epsilon": None, "delta": None}
    if not run.privacy["private"]:
        statement = "The run has no privacy: it promises nothing for these records."
        return nothing | {"statement": statement}
    delta, unit = guarantee["delta"], guarantee["unit"]
    if unit != "record" or num_forgotten > _MOST_RECORDS:
        why = f"of {unit}s" if unit != "record" else "for more than 1000 records together"
        statement = (
            f"The run is ({guarantee['epsilon']:.4g}, {delta:.3g})-differentially private per "
            f"{unit}. Its guarantee {why} is not turned into one for these records."
        )
        return nothing | {"statement": statement}
    mechanism = mechanism_from_dict(run.privacy["mechanism"])
    epsilon = guarantee["epsilon"]
    if num_forgotten > 1:
        epsilon = GroupOfRecords(mechanism, records_per_user=num_forgotten).epsilon(delta)
    relation = guarantee["neighboring"].replace("_", " ")
    statement = (
        f"Without any unlearning, the run is ({epsilon:.4g}, {delta:.3g})-differentially private "
        f"for these {num_forgotten} records together ({relation}; {guarantee['epsilon']:.4g} for "
        "one of them): its model before unlearning is that close to one that never saw them."
    )
    return {"epsilon": epsilon, "delta": delta, "statement": statement}
