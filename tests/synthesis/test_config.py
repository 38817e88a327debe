"""Options of a synthesis that cannot be meant."""

import pytest

import dpjax
from dpjax.synthesis import SynthesisConfig

REQUIRED = {"run": "runs/first", "num": 10, "output_dir": "synthetic"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"run": ""}, "run must name a folder, got ''"),
        ({"prompt": "a\udcff"}, "prompt must be valid Unicode"),
        ({"by": "label", "values": ("a\udcff",)}, "values must be valid Unicode"),
        ({"num": 0}, "num must be at least 1, got 0"),
        ({"by": "label"}, "by='label' needs the values"),
        ({"by": "label", "values": ("a", "b", "a")}, "values must differ, got 'a' twice"),
        ({"by": "label", "values": ("a", " ")}, "values must not be empty"),
        ({"values": ("a",)}, "values has no meaning without by"),
        ({"shares": (1.0,)}, "shares has no meaning without by"),
        ({"by": "label", "values": ("a", "b"), "shares": (1.0,)}, "got 1 for 2 values"),
        (
            {"by": "label", "values": ("a", "b"), "shares": (1.0, 0.0)},
            r"shares must be positive and finite, got 0\.0",
        ),
        ({"by": "label", "values": ("a",), "prompt": "Message:"}, r"prompt must have \{label\}"),
        (
            {"by": "label", "values": ("a",), "prompt": "{lable}: {label}"},
            r"the field \{lable\}, but by=label fills \{label\}\. Did you mean 'label'\?",
        ),
        ({"prompt": "{label}:"}, r"\{label\}, which nothing fills\. Give by=label"),
        ({"prompt": ""}, "prompt must be a text, got ''"),
        ({"prompt": "x", "prompts": "p.csv"}, "leave out prompt, or it"),
        ({"by": "label", "values": ("a",), "prompts": "p.csv"}, "leave out by, or it"),
        ({"temperature": 0.0}, r"temperature must be positive and finite, got 0\.0"),
        ({"temperature": float("nan")}, "temperature must be positive"),
        ({"top_p": 0.0}, r"top_p must be above 0 and at most 1, got 0\.0"),
        ({"top_p": 1.5}, r"top_p must be above 0 and at most 1, got 1\.5"),
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"max_tries": 0}, "max_tries must be at least 1"),
        ({"seed": 2**32}, r"seed must be at least 0 and below 2\*\*32"),
        ({"file_format": "jsnl"}, r"file_format must be one of jsonl, csv.*Did you mean 'jsonl'"),
        ({"test_data": "t.csv"}, "test_data goes with classifier"),
        ({"classifier": "c"}, "classifier goes with test_data"),
        ({"test_data": "t.csv", "classifier": "c"}, "needs by and at least two values"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SynthesisConfig(**REQUIRED | options)


def test_unknown_options_are_refused_with_the_nearest():
    with pytest.raises(TypeError, match=r"unknown option temprature\. Did you mean 'temperature'"):
        dpjax.synthesize("runs/first", num=1, output_dir="new", temprature=1.0)
    with pytest.raises(TypeError, match="missing option num, output_dir"):
        dpjax.synthesize("runs/first")
