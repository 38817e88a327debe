"""Tokenizers like GPT-2's with chat templates, made small: nothing is downloaded."""

from __future__ import annotations

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
