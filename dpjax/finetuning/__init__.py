"""Fine-tuning runs: configuration, training loop, run directory, privacy report, resume."""

from dpjax.finetuning.config.options import FinetuneConfig as FinetuneConfig
from dpjax.finetuning.config.options import Lora as Lora
from dpjax.finetuning.config.options import Privacy as Privacy
from dpjax.finetuning.config.options import Training as Training
from dpjax.finetuning.finetune import finetune as finetune

__all__ = ["FinetuneConfig", "Lora", "Privacy", "Training", "finetune"]
