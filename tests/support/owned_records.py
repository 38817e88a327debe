"""Training records with a column of owners, and what one of them moves in a step."""

import csv
import dataclasses

import jax
import numpy as np

from dpjax.finetuning import FinetuneConfig
from dpjax.finetuning.setup.start import set_up
from dpjax.finetuning.training import loop

COUNTS = (9, 1, 2, 5) * 12


def author_of_each():
    """The owners of the first records: 48 of them, with 1 to 9 records."""
    return [f"author {i}" for i, count in enumerate(COUNTS) for _ in range(count)]


def owned_file(train_file, path, owners):
    """The training records with a column of owners."""
    with train_file.open() as file:
        rows = list(csv.reader(file))[1:]
    with path.open("w", newline="") as file:
        lines = [("text", "label", "author")]
        lines += [(*row, name) for row, name in zip(rows, owners, strict=False)]
        csv.writer(file).writerows(lines)
    return path


def make_run(options):
    """What `finetune` sets up for these options."""
    names = ("model", "output_dir", "eval_data")
    paths = {name: str(options[name]) for name in names if not isinstance(options[name], dict)}
    return set_up(FinetuneConfig.from_options(options | paths))


def with_data(run, train, owners=None):
    """The run on other records."""
    plan = run.plan
    plan = dataclasses.replace(plan, train=train, owners=owners or plan.owners)
    return dataclasses.replace(run, plan=plan)


def with_other_texts(run, owner, seed):
    """All that an owner has becomes something else."""
    rng = np.random.default_rng(seed)
    train, rows = run.plan.train, run.plan.owners.rows_of(owner)
    ids, mask, labels = train.input_ids.copy(), train.attention_mask.copy(), train.labels.copy()
    length = int(rng.integers(1, ids.shape[1] + 1))
    ids[rows], mask[rows] = 0, False
    ids[rows, :length] = rng.integers(4, 20, (len(rows), length))
    mask[rows, :length] = True
    labels[rows] = rng.integers(2, size=len(rows))
    changed = dataclasses.replace(train, input_ids=ids, attention_mask=mask, labels=labels)
    return with_data(run, changed)


def flat_sum(run, steps, step):
    """The clipped sum of a step, as the loop makes it, and how many units are in it."""
    params = run.model.trainable
    total, params = steps.begin(params, step)
    for batch, mask in loop._batches(run, steps, step):
        total, params = steps.add(total, params, batch, mask, run.model.frozen)
    leaves = [np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(total.grads)]
    return np.concatenate(leaves), int(total.num_records)


def change(options, changes):
    """Changes options by the names that they have on the command line."""
    for name, value in changes.items():
        group, _, field = name.partition(".")
        if field:
            options[group][field] = value
        else:
            options[group] = value
