"""Flax NNX models with LoRA, read from and written to Hugging Face checkpoint folders."""

from dpjax.models.config import EncoderConfig as EncoderConfig
from dpjax.models.encoder import SequenceClassifier as SequenceClassifier
from dpjax.models.families import FAMILIES as FAMILIES
from dpjax.models.files import resolve_checkpoint as resolve_checkpoint
from dpjax.models.load import load_classifier as load_classifier
from dpjax.models.load import read_config as read_config
from dpjax.models.lora import LoraLinear as LoraLinear
from dpjax.models.lora import LoraParam as LoraParam
from dpjax.models.lora import add_lora as add_lora
from dpjax.models.lora import merge_lora as merge_lora
from dpjax.models.pooling import Pooling as Pooling
from dpjax.models.principal import (
    start_a_at_principal_directions as start_a_at_principal_directions,
)
from dpjax.models.save import save_classifier as save_classifier
from dpjax.models.tokenizer import load_tokenizer as load_tokenizer
from dpjax.models.trainable import count_parameters as count_parameters
from dpjax.models.trainable import split_trainable as split_trainable
