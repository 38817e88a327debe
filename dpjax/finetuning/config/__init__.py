"""The options of a run."""

from dpjax.finetuning.config.audit import Audit as Audit
from dpjax.finetuning.config.audit import CanaryKindName as CanaryKindName
from dpjax.finetuning.config.audit import ScoreName as ScoreName
from dpjax.finetuning.config.compute import Compute as Compute
from dpjax.finetuning.config.compute import Generation as Generation
from dpjax.finetuning.config.features import FeatureOptions as FeatureOptions
from dpjax.finetuning.config.finetune_config import FinetuneConfig as FinetuneConfig
from dpjax.finetuning.config.finetune_config import TaskName as TaskName
from dpjax.finetuning.config.finetune_config import Tuning as Tuning
from dpjax.finetuning.config.head import Head as Head
from dpjax.finetuning.config.head_stage import check_some_are_left as check_some_are_left
from dpjax.finetuning.config.plan_config import PlanConfig as PlanConfig
from dpjax.finetuning.config.privacy import Privacy as Privacy
from dpjax.finetuning.config.sampling import Neighboring as Neighboring
from dpjax.finetuning.config.sampling import NoiseName as NoiseName
from dpjax.finetuning.config.sampling import SamplingName as SamplingName
from dpjax.finetuning.config.tracking import Tracking as Tracking
from dpjax.finetuning.config.training import Preference as Preference
from dpjax.finetuning.config.training import Training as Training
