"""Labelled or plain text, answers, pairs, conversations in, arrays and Poisson batches out."""

from dpjax.data.batches import by_length as by_length
from dpjax.data.batches import trim_padding as trim_padding
from dpjax.data.duplicates import count_shared_texts as count_shared_texts
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
from dpjax.data.encode.tagged_words import TaggedDataset as TaggedDataset
from dpjax.data.encode.tagged_words import encode_tagged_words as encode_tagged_words
from dpjax.data.encode.templated import Template as Template
from dpjax.data.encode.templated import TemplatedDataset as TemplatedDataset
from dpjax.data.encode.templated import check_template as check_template
from dpjax.data.encode.templated import encode_templated as encode_templated
from dpjax.data.encode.templated import tokens_of_words as tokens_of_words
from dpjax.data.encode.templated import word_ids as word_ids
from dpjax.data.owners import OwnedRecords as OwnedRecords
from dpjax.data.owners import Owners as Owners
from dpjax.data.owners import RecordsByOwner as RecordsByOwner
from dpjax.data.preferences.encode import PreferenceDataset as PreferenceDataset
from dpjax.data.preferences.encode import encode_preferences as encode_preferences
from dpjax.data.preferences.records import Preferences as Preferences
from dpjax.data.preferences.records import read_preferences as read_preferences
from dpjax.data.read.text_lines import open_lines as open_lines
from dpjax.data.records.base import RecordColumns as RecordColumns
from dpjax.data.records.label_names import label_names as label_names
from dpjax.data.records.labelled import Records as Records
from dpjax.data.records.labelled import read_records as read_records
from dpjax.data.records.language import Completions as Completions
from dpjax.data.records.language import Conversations as Conversations
from dpjax.data.records.language import LanguageRecords as LanguageRecords
from dpjax.data.records.language import Texts as Texts
from dpjax.data.records.language import read_language_records as read_language_records
from dpjax.data.records.messages import Message as Message
from dpjax.data.records.messages import is_learnt as is_learnt
from dpjax.data.records.messages import message_text as message_text
from dpjax.data.records.tagged_words import TaggedWords as TaggedWords
from dpjax.data.records.tagged_words import read_tagged_words as read_tagged_words
from dpjax.data.source import DataSource as DataSource
from dpjax.privatize import PoissonSampler as PoissonSampler
from dpjax.privatize import microbatches as microbatches

__all__ = [
    "Completions",
    "Conversations",
    "DataSource",
    "EncodedPrompts",
    "EncodedRecords",
    "LanguageDataset",
    "LanguageRecords",
    "Message",
    "OwnedRecords",
    "Owners",
    "PoissonSampler",
    "PreferenceDataset",
    "Preferences",
    "Prompt",
    "RecordColumns",
    "RecordError",
    "Records",
    "RecordsByOwner",
    "TaggedDataset",
    "TaggedWords",
    "Template",
    "TemplatedDataset",
    "TextDataset",
    "Texts",
    "by_length",
    "check_template",
    "count_shared_texts",
    "encode_labelled",
    "encode_language",
    "encode_preferences",
    "encode_prompts",
    "encode_tagged_words",
    "encode_templated",
    "find_prompts",
    "is_learnt",
    "label_names",
    "message_text",
    "microbatches",
    "open_lines",
    "read_language_records",
    "read_preferences",
    "read_records",
    "read_tagged_words",
    "tokens_of_words",
    "trim_padding",
    "word_ids",
]
