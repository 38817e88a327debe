"""Other libraries that tune a head by the same recipe as dpjax, each in a file of its own."""

from benchmarks.recipes.peers.features import NotComparable as NotComparable
from benchmarks.recipes.peers.features import make_head_data as make_head_data
from benchmarks.recipes.peers.head_task import HeadData as HeadData
from benchmarks.recipes.peers.head_task import HeadTask as HeadTask
from benchmarks.recipes.peers.libraries import LIBRARIES as LIBRARIES
from benchmarks.recipes.peers.libraries import TunedHead as TunedHead
from benchmarks.recipes.peers.libraries import is_installed as is_installed
from benchmarks.recipes.peers.libraries import tune_head as tune_head
from benchmarks.recipes.peers.libraries import why_not as why_not
