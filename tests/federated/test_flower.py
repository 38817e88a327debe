"""The strategy of the documentation, in Flower's own loop of rounds with nodes in this process."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from dpjax_accounting import DPSGD

import dpjax
from dpjax.federated import PrivateAggregator

flwr_app = pytest.importorskip("flwr.app")
pytest.importorskip("flwr.serverapp")

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "federated.md"


class NodesHere:
    """What a strategy asks of Flower's grid: nodes that move all arrays by 1."""

    def __init__(self, num_nodes):
        self.asked = []
        self._num = num_nodes

    def get_node_ids(self):
        return [1000 + 7 * i for i in reversed(range(self._num))]

    def send_and_receive(self, messages, timeout=None):
        replies = []
        for message in messages:
            self.asked.append(message.metadata.dst_node_id)
            after = [a + 1 for a in message.content["arrays"].to_numpy_ndarrays()]
            record = flwr_app.RecordDict({"arrays": flwr_app.ArrayRecord(after)})
            replies.append(flwr_app.Message(content=record, reply_to=message))
        return replies


def strategy_of_the_page():
    (block,) = (
        block
        for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
        if "class PrivateFedAvg" in block
    )
    names = {}
    exec(compile(block, str(PAGE), "exec"), names)
    return names["PrivateFedAvg"]


@pytest.mark.filterwarnings("ignore")
def test_the_strategy_of_the_page_gives_the_noisy_mean_of_clipped_updates():
    task_identity = pytest.importorskip("flwr.supercore.task_identity").TaskIdentity
    # Flower's runtime sets them before a server starts.
    task_identity.task_id = task_identity.run_id = task_identity.node_id = 1
    rounds = DPSGD(num_units=12, expected_batch_size=6, noise_multiplier=1e-6, num_steps=3)
    arrays = [np.zeros((2, 2), np.float32), np.zeros(5, np.float32)]
    key = dpjax.RunKey.from_seed(0)
    aggregator = PrivateAggregator(arrays, mechanism=rounds, clip_norm=0.3, run_key=key)
    strategy, nodes = strategy_of_the_page()(aggregator, 12), NodesHere(12)
    result = strategy.start(nodes, flwr_app.ArrayRecord(arrays), num_rounds=3)
    # Each update is all ones, of norm 3, and clipped to 0.3.
    counts = [len(aggregator.cohort(step)) for step in range(3)]
    expected = sum(counts) * 0.1 / 6
    for array in result.arrays.to_numpy_ndarrays():
        np.testing.assert_allclose(array, expected, atol=1e-4)
    assert len(nodes.asked) == sum(counts)


@pytest.mark.slow
def test_the_strategy_of_the_page_in_a_simulation_of_flower():
    """Its nodes come and go as Flower says, in processes of Ray."""
    pytest.importorskip("ray")
    command = [sys.executable, "-m", "tests.federated.flower_simulation"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads(done.stdout.splitlines()[-1])
    expected = sum(said["counts"]) * 0.1 / 3
    np.testing.assert_allclose(said["first"], expected, atol=1e-4)
    np.testing.assert_allclose(said["second"], expected, atol=1e-4)
    assert len(said["counts"]) == 2
