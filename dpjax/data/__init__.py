"""Labelled or plain text, answers and conversations in, arrays and Poisson batches out."""

from dpjax.data.chat import RecordError as RecordError
from dpjax.data.encode import TextDataset as TextDataset
from dpjax.data.encode import encode as encode
from dpjax.data.encoded import EncodedRecords as EncodedRecords
from dpjax.data.labels import label_names as label_names
from dpjax.data.language import LanguageDataset as LanguageDataset
from dpjax.data.language import encode_language as encode_language
from dpjax.data.language_records import Completions as Completions
from dpjax.data.language_records import Conversations as Conversations
from dpjax.data.language_records import LanguageRecords as LanguageRecords
from dpjax.data.language_records import Texts as Texts
from dpjax.data.language_records import read_language_records as read_language_records
from dpjax.data.prompts import EncodedPrompts as EncodedPrompts
from dpjax.data.prompts import Prompt as Prompt
from dpjax.data.prompts import encode_prompts as encode_prompts
from dpjax.data.prompts import find_prompts as find_prompts
from dpjax.data.record_columns import RecordColumns as RecordColumns
from dpjax.data.records import Records as Records
from dpjax.data.records import read_records as read_records
from dpjax.data.sampling import PoissonSampler as PoissonSampler
from dpjax.data.sampling import microbatches as microbatches
from dpjax.data.source import DataSource as DataSource
from dpjax.data.trim import by_length as by_length
from dpjax.data.trim import trim_padding as trim_padding
