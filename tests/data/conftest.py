"""Tokenizers that the tests of language records share."""

from __future__ import annotations

import pytest

from tests.support.tiny_tokenizers import MARKED_TEMPLATE, make_tokenizer


@pytest.fixture(scope="session")
def make_gpt():
    """Makes a tokenizer with other special tokens or another chat template."""
    return make_tokenizer


@pytest.fixture(scope="session")
def gpt():
    """A tokenizer without a chat template, which puts nothing around a text."""
    return make_tokenizer()


@pytest.fixture(scope="session")
def chat():
    """A tokenizer whose template marks what the assistant says."""
    return make_tokenizer(chat_template=MARKED_TEMPLATE)
