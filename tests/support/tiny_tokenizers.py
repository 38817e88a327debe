"""Tokenizers like GPT-2's with chat templates, made small: nothing is downloaded."""

from __future__ import annotations

import json

SENTENCES = [
    "the film is good and the play is bad",
    "a good film, a bad play, a long book",
    "the book was long but the film was short",
    "name[Vaults], food[French] Vaults serves French food",
]
END = "<|endoftext|>"
TURNS = ("<|turn|>", "<|end|>")

# Of every message: <|turn|>role, a line break, the content, <|end|>, a line break.
_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.role == 'fool' %}{{ raise_exception('no fools here') }}{% endif %}"
    "{% if message.role == 'spy' %}{{ raise_exception('heard ' + message.content) }}{% endif %}"
    "{{ '<|turn|>' + message.role + '\n' }}"
    "ASSISTANT{{ '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|turn|>assistant\n' }}{% endif %}"
)
_MARKED = (
    "{% if message.role == 'assistant' %}"
    "{%- generation -%}{{ message.content + '<|end|>' }}{%- endgeneration -%}"
    "{% else %}{{ message.content + '<|end|>' }}{% endif %}"
)
MARKED_TEMPLATE = _TEMPLATE.replace("ASSISTANT", _MARKED)
PLAIN_TEMPLATE = _TEMPLATE.replace("ASSISTANT", "{{ message.content + '<|end|>' }}")


def make_tokenizer(*, opening=None, closing=None, **options):
    """Byte-level BPE without a padding token; `opening` and `closing` are put around a text."""
    import tokenizers
    import transformers

    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=340,
        special_tokens=[END, *TURNS, "<s>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(SENTENCES, trainer)
    around = [token for token in (opening, closing) if token]
    if around:
        backend.post_processor = tokenizers.processors.TemplateProcessing(
            single=" ".join(filter(None, (opening, "$A", closing))),
            special_tokens=[(token, backend.token_to_id(token)) for token in around],
        )
    defaults = {"eos_token": END, "model_max_length": 64}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **defaults | options)


WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "clinic", "called"]
VOCABULARY = {word: index for index, word in enumerate(WORDS)}


def write_word_level(folder, vocabulary, *, pad="[PAD]", eos=None, added=(), closing=None):
    """A tokenizer of whole words; `closing` is put at the end of every text."""
    from tokenizers import AddedToken, Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing

    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.add_tokens([AddedToken(token) for token in added])
    if closing is not None:
        tokenizer.post_processor = TemplateProcessing(
            single=f"$A {closing[0]}", special_tokens=[closing]
        )
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "[UNK]"}
    settings |= {"pad_token": pad} if pad else {}
    settings |= {"eos_token": eos} if eos else {}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
