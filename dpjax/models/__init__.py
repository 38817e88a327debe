"""Flax NNX language models with LoRA, read from and written to Hugging Face checkpoint folders."""

from dpjax.models.adapter_load import load_adapter as load_adapter
from dpjax.models.adapter_save import is_own_base as is_own_base
from dpjax.models.adapter_save import save_adapter as save_adapter
from dpjax.models.config import RopeConfig as RopeConfig
from dpjax.models.config import TransformerConfig as TransformerConfig
from dpjax.models.families import FAMILIES as FAMILIES
from dpjax.models.families import TASKS as TASKS
from dpjax.models.families import Task as Task
from dpjax.models.families import family_of as family_of
from dpjax.models.families import head_names as head_names
from dpjax.models.files import resolve_checkpoint as resolve_checkpoint
from dpjax.models.files import revision_of as revision_of
from dpjax.models.generate import Generation as Generation
from dpjax.models.generate import generate as generate
from dpjax.models.generation_config import end_token_ids as end_token_ids
from dpjax.models.heads import CausalLM as CausalLM
from dpjax.models.heads import Model as Model
from dpjax.models.heads import SequenceClassifier as SequenceClassifier
from dpjax.models.heads import TokenClassifier as TokenClassifier
from dpjax.models.labels import check_label_names as check_label_names
from dpjax.models.load import Loading as Loading
from dpjax.models.load import load_causal_lm as load_causal_lm
from dpjax.models.load import load_classifier as load_classifier
from dpjax.models.load import load_token_classifier as load_token_classifier
from dpjax.models.log_probs import continuation_log_probs as continuation_log_probs
from dpjax.models.lora import LoraLinear as LoraLinear
from dpjax.models.lora import LoraParam as LoraParam
from dpjax.models.lora import add_lora as add_lora
from dpjax.models.lora import drop_inputs as drop_inputs
from dpjax.models.lora import has_lora as has_lora
from dpjax.models.lora import merge_lora as merge_lora
from dpjax.models.lora_config import LoraConfig as LoraConfig
from dpjax.models.pooling import Pooling as Pooling
from dpjax.models.principal import (
    start_a_at_principal_directions as start_a_at_principal_directions,
)
from dpjax.models.read_config import parse_config as parse_config
from dpjax.models.read_config import read_config as read_config
from dpjax.models.save import save_model as save_model
from dpjax.models.tokenizer import load_tokenizer as load_tokenizer
from dpjax.models.trainable import Trainable as Trainable
from dpjax.models.trainable import count_parameters as count_parameters
from dpjax.models.trainable import split_trainable as split_trainable
from dpjax.models.trainable import trained_share as trained_share
