"""Runs the strategy of the documentation in Flower's simulation, and prints what came out."""

import json

import numpy as np
from dpjax_accounting import DPSGD
from flwr.app import ArrayRecord, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

import dpjax
from benchmarks.support.flower_round import simulate
from dpjax.federated import PrivateAggregator
from tests.federated.test_flower import strategy_of_the_page

NUM_NODES, NUM_ROUNDS = 6, 2
client, server = ClientApp(), ServerApp()


@client.train()
def move_by_one(message, context):
    after = [array + 1 for array in message.content["arrays"].to_numpy_ndarrays()]
    return Message(content=RecordDict({"arrays": ArrayRecord(after)}), reply_to=message)


@server.main()
def serve(grid, context):
    rounds = DPSGD(
        num_units=NUM_NODES, expected_batch_size=3, noise_multiplier=1e-6, num_steps=NUM_ROUNDS
    )
    arrays = [np.zeros((2, 2), np.float32), np.zeros(5, np.float32)]
    key = dpjax.RunKey.from_seed(0)
    aggregator = PrivateAggregator(arrays, mechanism=rounds, clip_norm=0.3, run_key=key)
    strategy = strategy_of_the_page()(aggregator, NUM_NODES)
    result = strategy.start(grid, ArrayRecord(arrays), num_rounds=NUM_ROUNDS)
    first, second = (array.ravel().tolist() for array in result.arrays.to_numpy_ndarrays())
    counts = [len(aggregator.cohort(step)) for step in range(NUM_ROUNDS)]
    print()
    print(json.dumps({"first": first, "second": second, "counts": counts}), flush=True)


if __name__ == "__main__":
    simulate(server, client, NUM_NODES)
