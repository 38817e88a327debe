"""Flax NNX language models with LoRA, read from and written to Hugging Face checkpoint folders."""

from dpjax.basics.lora_config import LoraConfig as LoraConfig
from dpjax.models.adapters.abstract import abstract_model as abstract_model
from dpjax.models.adapters.files.check import check_adapter as check_adapter
from dpjax.models.adapters.files.load import load_adapter as load_adapter
from dpjax.models.adapters.files.merging.merge import merge_adapters as merge_adapters
from dpjax.models.adapters.files.save import is_own_base as is_own_base
from dpjax.models.adapters.files.save import save_adapter as save_adapter
from dpjax.models.adapters.fresh import fresh_lora as fresh_lora
from dpjax.models.adapters.layers.linear import LoraLinear as LoraLinear
from dpjax.models.adapters.layers.linear import LoraParam as LoraParam
from dpjax.models.adapters.lora import add_lora as add_lora
from dpjax.models.adapters.lora import base_model as base_model
from dpjax.models.adapters.lora import drop_inputs as drop_inputs
from dpjax.models.adapters.lora import has_lora as has_lora
from dpjax.models.adapters.lora import merge_lora as merge_lora
from dpjax.models.adapters.lora import merged_copy as merged_copy
from dpjax.models.adapters.lower_layers import cut_lower_layers as cut_lower_layers
from dpjax.models.adapters.lower_layers import lower_hidden_states as lower_hidden_states
from dpjax.models.adapters.lower_layers import lowest_trained_layer as lowest_trained_layer
from dpjax.models.adapters.principal_a import (
    start_a_at_principal_directions as start_a_at_principal_directions,
)
from dpjax.models.adapters.split_model import SplitModel as SplitModel
from dpjax.models.adapters.split_model import count_parameters as count_parameters
from dpjax.models.adapters.split_model import split_trainable as split_trainable
from dpjax.models.adapters.tangent.product import tangent_product as tangent_product
from dpjax.models.adapters.tangent.steps import tangent_lora as tangent_lora
from dpjax.models.adapters.trainable import Trainable as Trainable
from dpjax.models.checkpoint.config_json import parse_config as parse_config
from dpjax.models.checkpoint.config_json import read_config as read_config
from dpjax.models.checkpoint.files import resolve_checkpoint as resolve_checkpoint
from dpjax.models.checkpoint.files import revision_of as revision_of
from dpjax.models.checkpoint.fill import Loading as Loading
from dpjax.models.checkpoint.fill import Placement as Placement
from dpjax.models.checkpoint.generation_config import end_token_ids as end_token_ids
from dpjax.models.checkpoint.label_rows import check_label_names as check_label_names
from dpjax.models.checkpoint.load import load_causal_lm as load_causal_lm
from dpjax.models.checkpoint.load import load_classifier as load_classifier
from dpjax.models.checkpoint.load import load_masked_lm as load_masked_lm
from dpjax.models.checkpoint.load import load_token_classifier as load_token_classifier
from dpjax.models.checkpoint.load import load_word_rows as load_word_rows
from dpjax.models.checkpoint.pooling_choice import resolve_pooling as resolve_pooling
from dpjax.models.checkpoint.save import save_model as save_model
from dpjax.models.checkpoint.tokenizer import load_tokenizer as load_tokenizer
from dpjax.models.config import RopeConfig as RopeConfig
from dpjax.models.config import TransformerConfig as TransformerConfig
from dpjax.models.families import FAMILIES as FAMILIES
from dpjax.models.families import TASKS as TASKS
from dpjax.models.families import Task as Task
from dpjax.models.families import family_of as family_of
from dpjax.models.families import head_names as head_names
from dpjax.models.gguf.convert import convert_gguf as convert_gguf
from dpjax.models.net.heads import CausalLM as CausalLM
from dpjax.models.net.heads import MaskedLM as MaskedLM
from dpjax.models.net.heads import Model as Model
from dpjax.models.net.heads import SequenceClassifier as SequenceClassifier
from dpjax.models.net.heads import TokenClassifier as TokenClassifier
from dpjax.models.net.layer_features import LayerFeatures as LayerFeatures
from dpjax.models.net.pooling import Pooling as Pooling
from dpjax.models.sharding import num_stacked_axes as num_stacked_axes
from dpjax.models.sharding import tensor_axis as tensor_axis
from dpjax.models.text.feature_centre import centre_features as centre_features
from dpjax.models.text.generate import Generation as Generation
from dpjax.models.text.generate import generate as generate
from dpjax.models.text.label_words import start_from_language_head as start_from_language_head
from dpjax.models.text.label_words import start_from_words as start_from_words
from dpjax.models.text.log_probs import continuation_log_probs as continuation_log_probs
from dpjax.models.text.log_probs import sequence_log_probs as sequence_log_probs
from dpjax.models.text.losses import causal_lm_loss as causal_lm_loss
from dpjax.models.text.losses import sequence_classification_loss as sequence_classification_loss
from dpjax.models.text.losses import token_classification_loss as token_classification_loss
from dpjax.models.text.losses import token_losses as token_losses
from dpjax.models.text.preference_loss import preference_loss as preference_loss
from dpjax.models.text.token_logits import measure_tokens as measure_tokens
from dpjax.models.text.vocab_chunk import LOGITS_SHARE as LOGITS_SHARE
from dpjax.models.text.vocab_chunk import bytes_of_logits as bytes_of_logits
from dpjax.models.text.vocab_chunk import choose_vocab_chunk as choose_vocab_chunk

__all__ = [
    "FAMILIES",
    "LOGITS_SHARE",
    "TASKS",
    "CausalLM",
    "Generation",
    "LayerFeatures",
    "Loading",
    "LoraConfig",
    "LoraLinear",
    "LoraParam",
    "MaskedLM",
    "Model",
    "Placement",
    "Pooling",
    "RopeConfig",
    "SequenceClassifier",
    "SplitModel",
    "Task",
    "TokenClassifier",
    "Trainable",
    "TransformerConfig",
    "abstract_model",
    "add_lora",
    "base_model",
    "bytes_of_logits",
    "causal_lm_loss",
    "centre_features",
    "check_adapter",
    "check_label_names",
    "choose_vocab_chunk",
    "continuation_log_probs",
    "convert_gguf",
    "count_parameters",
    "cut_lower_layers",
    "drop_inputs",
    "end_token_ids",
    "family_of",
    "fresh_lora",
    "generate",
    "has_lora",
    "head_names",
    "is_own_base",
    "load_adapter",
    "load_causal_lm",
    "load_classifier",
    "load_masked_lm",
    "load_token_classifier",
    "load_tokenizer",
    "load_word_rows",
    "lower_hidden_states",
    "lowest_trained_layer",
    "measure_tokens",
    "merge_adapters",
    "merge_lora",
    "merged_copy",
    "num_stacked_axes",
    "parse_config",
    "preference_loss",
    "read_config",
    "resolve_checkpoint",
    "resolve_pooling",
    "revision_of",
    "save_adapter",
    "save_model",
    "sequence_classification_loss",
    "sequence_log_probs",
    "split_trainable",
    "start_a_at_principal_directions",
    "start_from_language_head",
    "start_from_words",
    "tensor_axis",
    "token_classification_loss",
    "token_losses",
]
