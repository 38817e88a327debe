"""Tiny random checkpoints with a language head, whose tokens are whole words."""

import json

from flax import nnx

from dpjax.models import CausalLM, MaskedLM, TransformerConfig, parse_config, save_model
from tests.support.tiny_words import BAD, GOOD, NEUTRAL

TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "very", "film", "great", "lovely")
TOKENS += ("terrible", *dict.fromkeys((*GOOD, *BAD, *NEUTRAL)))
SIZES = {"vocab_size": 60, "hidden_size": 16, "intermediate_size": 32, "pad_token_id": 0}
ENCODER = SIZES | {
    "model_type": "bert",
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "max_position_embeddings": 32,
}
DECODER = SIZES | {
    "model_type": "llama",
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 32,
    "tie_word_embeddings": True,
}


def write_checkpoint(folder, contents, is_causal):
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    source = folder / "source"
    source.mkdir()
    (source / "config.json").write_text(json.dumps(contents))
    words = list(dict.fromkeys(TOKENS))
    tokenizer = Tokenizer(
        models.WordLevel({word: row for row, word in enumerate(words)}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = "[CLS] $A" if is_causal else "[CLS] $A [SEP]"
    special = [("[CLS]", 2), ("[SEP]", 3)]
    tokenizer.post_processor = processors.TemplateProcessing(single=ends, special_tokens=special)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token=None if is_causal else "[MASK]",
        model_max_length=32,
    ).save_pretrained(source)
    make = CausalLM if is_causal else MaskedLM
    config: TransformerConfig = parse_config(contents | {"initializer_range": 0.2})
    save_model(make(config, rngs=nnx.Rngs(0)), folder / "model", source=source)
    return folder / "model"
