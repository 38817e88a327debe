"""Labelled text in, arrays and Poisson batches out."""

from dpjax.data.encode import TextDataset as TextDataset
from dpjax.data.encode import encode as encode
from dpjax.data.encoded import EncodedRecords as EncodedRecords
from dpjax.data.labels import label_names as label_names
from dpjax.data.record_columns import RecordColumns as RecordColumns
from dpjax.data.records import Records as Records
from dpjax.data.records import read_records as read_records
from dpjax.data.sampling import PoissonSampler as PoissonSampler
from dpjax.data.sampling import microbatches as microbatches
from dpjax.data.source import DataSource as DataSource
from dpjax.data.trim import by_length as by_length
from dpjax.data.trim import trim_padding as trim_padding
