"""Labelled or plain text, answers and conversations in, arrays and Poisson batches out."""

from dpjax.data.batches import PoissonSampler as PoissonSampler
from dpjax.data.batches import by_length as by_length
from dpjax.data.batches import microbatches as microbatches
from dpjax.data.batches import trim_padding as trim_padding
from dpjax.data.encode.base import EncodedRecords as EncodedRecords
from dpjax.data.encode.chat_template import RecordError as RecordError
from dpjax.data.encode.labelled import TextDataset as TextDataset
from dpjax.data.encode.labelled import encode_labelled as encode_labelled
from dpjax.data.encode.language import LanguageDataset as LanguageDataset
from dpjax.data.encode.language import encode_language as encode_language
from dpjax.data.encode.prompts import EncodedPrompts as EncodedPrompts
from dpjax.data.encode.prompts import Prompt as Prompt
from dpjax.data.encode.prompts import encode_prompts as encode_prompts
from dpjax.data.encode.prompts import find_prompts as find_prompts
from dpjax.data.records.base import RecordColumns as RecordColumns
from dpjax.data.records.label_names import label_names as label_names
from dpjax.data.records.labelled import Records as Records
from dpjax.data.records.labelled import read_records as read_records
from dpjax.data.records.language import Completions as Completions
from dpjax.data.records.language import Conversations as Conversations
from dpjax.data.records.language import LanguageRecords as LanguageRecords
from dpjax.data.records.language import Texts as Texts
from dpjax.data.records.language import read_language_records as read_language_records
from dpjax.data.source import DataSource as DataSource
