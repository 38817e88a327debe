"""The heads of families, as transformers names its classes and their layers."""

from __future__ import annotations

from dpjax.models.families.family import Head, Task

_SUFFIXES: dict[Task, str] = {
    "causal_lm": "ForCausalLM",
    "masked_lm": "ForMaskedLM",
    "sequence_classification": "ForSequenceClassification",
    "token_classification": "ForTokenClassification",
}


def decoder_heads(
    name: str,
    *tasks: Task,
    lm_head: str = "lm_head",
    token_layer: str = "score",
    architectures: dict[Task, str] | None = None,
) -> dict[Task, Head]:
    """Returns heads as most decoders have them.

    Args:
        name: starts the names of transformers' classes.
        tasks: those that transformers has a head for; all if none is given.
        lm_head: transformers' name of the layer that gives the logits of the vocabulary.
        token_layer: its name of the layer that classifies tokens.
        architectures: its classes where they are named in another way.
    """
    layers: dict[Task, tuple[str, str, bool]] = {
        "causal_lm": ("lm_head", lm_head, False),
        "sequence_classification": ("classifier", "score", False),
        "token_classification": ("classifier", token_layer, True),
    }
    named = {task: name + _SUFFIXES[task] for task in layers} | (architectures or {})
    return {task: Head(named[task], (layers[task],)) for task in tasks or layers}


def encoder_heads(
    name: str,
    *,
    pooler: str,
    masked: tuple[str, str, str, str],
    classifier: str = "classifier",
) -> dict[Task, Head]:
    """Returns the heads of an encoder: for texts with a pooler, for tokens without.

    Args:
        name: starts the names of transformers' classes.
        pooler: transformers' name of the dense layer below the classifier of texts.
        masked: its names in the head for masked tokens: the dense layer, the norm, the decoder,
            and the module that has the bias of the vocabulary.
        classifier: its name of that classifier.
    """
    dense, norm, decoder, vocab_bias = masked
    words = (("transform", dense, True), ("decoder", decoder, False))
    texts = (("pooler", pooler, True), ("classifier", classifier, True))
    tokens = (("classifier", "classifier", True),)
    return {
        "sequence_classification": Head(name + _SUFFIXES["sequence_classification"], texts),
        "token_classification": Head(name + _SUFFIXES["token_classification"], tokens),
        "masked_lm": Head(
            name + _SUFFIXES["masked_lm"], words, ("transform_norm", norm), vocab_bias
        ),
    }
