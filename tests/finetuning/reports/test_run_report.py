"""What report.md says of the recipe."""

import pytest

from dpjax.finetuning import Training
from dpjax.finetuning.reports.run_report import _optimizer


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "Adam, learning rate 0.002"),
        ({"optimizer": "adamw", "weight_decay": 0.1}, "AdamW, weight decay 0.1, learning rate"),
        ({"optimizer": "sgd", "momentum": 0.5}, "SGD, momentum 0.5, learning rate 0.002"),
        (
            {"optimizer": "adam-bc", "head_learning_rate": 0.1},
            "DP-AdamBC, learning rate 0.002 (0.1 for the head)",
        ),
    ],
)
def test_the_optimizer_is_the_one_that_was_asked_for(options, expected):
    assert _optimizer(Training(**options)).startswith(expected)
