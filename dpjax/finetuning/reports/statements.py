"""The sentences that every private run prints into its privacy report."""

from __future__ import annotations

from dpjax.finetuning.config import FinetuneConfig

ASSUMPTIONS = (
    "One record is one row of the training file. A person with several rows is protected for each "
    "row, not for all of them together.",
)


def who_is_a_user(config: FinetuneConfig) -> str:
    """Returns what takes the place of the first assumption where owners are protected."""
    at_most = config.privacy.records_per_owner
    if config.samples_owners:
        step = (
            f"A step reads at most {at_most} rows of each user that was drawn, and clips the "
            "gradient of their mean loss as one."
        )
    else:
        step = (
            f"A user has at most {at_most} rows in training; others were left out, by a choice "
            "that reads only how many rows that user has. Each row is drawn and clipped by "
            "itself, and ε counts that all rows of a user may be drawn together."
        )
    return (
        "One user is one value of the column "
        f"{config.train_data.owner_column!r} of the training file, with all rows that have it. Who "
        f"has several values there is protected for each of them. {step}"
    )


LABEL_ASSUMPTIONS = ("The set of labels is public.",)
NOT_COVERED = (
    "metrics.jsonl, attack.json, report.md and anything else in the run directory except model/, "
    "adapter/ and this report. They are computed from the private records without noise.",
    "Choosing hyper-parameters, or one of several runs, by looking at results on private data.",
    "That a run stopped because it diverged. Whoever sees this learns that its losses were not "
    "finite.",
    "A text that several units have. Each of them is protected, but what they have in common is "
    "protected less.",
    "The evaluation records, and the data that the pretrained checkpoint was made from.",
    "Other trainings on the same records, unless a ledger has them. All of them together spend "
    "more than this ε.",
)
TRUST = {
    "model": "central",
    "trusted_with_records": [
        "Whoever runs the training, and the machine that it runs on. Both see the records."
    ],
    "released": [
        "The tuned weights in model/, and in adapter/ if there is one, and every intermediate "
        "state of them."
    ],
}
SECRET_KEY = (
    "The run key and the checkpoints of an unfinished run. The noise can be computed from them. "
    "Both are deleted when the run ends."
)
SECRET_FILES = (
    "metrics.jsonl, attack.json, report.md and their pictures.",
    "The ledger of the data set. It holds a hash of the records.",
)
# Of a run whose coins leave training records out.
HOLD_OUT_ASSUMPTION = (
    "A fair coin decided for each row of the training file whether it was left out. ε counts no "
    "protection by the coins: it holds for each row even if all coins are known. n is half of the "
    "rows, the number expected."
)
HOLD_OUT_SECRET = "audit.json and audit.html: which records were left out, and the loss of each."
# How the run uses private data beside its gradients: the use, its status, an explanation.
DATA_USES = (
    (
        "Hyper-parameter tuning",
        "not covered",
        "dpjax cannot know how the settings were chosen. If they were chosen by results on these "
        "records, enter every trial run in the ledger; the choice itself costs extra privacy.",
    ),
    (
        "Choice of a checkpoint, early stopping",
        "not done",
        "The run keeps the model after the last step.",
    ),
    (
        "Stopping a run that diverged",
        "not covered",
        "A run stops when no loss is finite for a whole batch. This depends on the records without "
        "noise.",
    ),
    (
        "Evaluation",
        "not covered",
        "Accuracy is measured on the evaluation records without noise. Nothing is trained on them.",
    ),
    (
        "Logged metrics and the attack",
        "not covered",
        "They are computed from the training records without noise. Do not publish them.",
    ),
    (
        "Vocabulary and tokenizer",
        "public data",
        "They come with the pretrained checkpoint. No guarantee covers the data it was made from.",
    ),
)
HOLD_OUT_USES = (
    (
        "Audit of the training records",
        "not covered",
        "audit.json has the coin and the score of every record. Do not publish it.",
    ),
)
# Of a federated run.
CLIENTS_SECRET = "clients.json: how well the tuned model does on the records of each client."
CLIENTS_USES = (
    (
        "Results of each client",
        "not covered",
        "clients.json and report.md have what the tuned model reaches on the training records of "
        "clients, without noise. Do not publish them.",
    ),
)
QUANTISED_USES = (
    (
        "Rounding of the frozen layers",
        "public data",
        "Their codes are a function of the pretrained checkpoint alone. No record is read for "
        "them, so they cost no ε.",
    ),
)
TENSORBOARD_SECRET = "The folder of TensorBoard. It has the metrics of the steps."
SENT_METRICS_USES = (
    (
        "Metrics sent to Weights & Biases",
        "not covered",
        "Losses and counts of each step were sent there. They are computed from the training "
        "records without noise, and whoever reads them there learns what no ε covers.",
    ),
)
LABEL_USES = (("Set of labels", "not covered", "It is read from the data and treated as public."),)
