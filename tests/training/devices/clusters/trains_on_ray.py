"""Run as a script: docs/clusters/ray_train.py with two workers on CPUs and a key that is known.

Arguments: a folder for Ray's files, the records and the folder of the run.
"""

import sys
from pathlib import Path

import ray

import dpjax

RECIPES = Path(__file__).parents[4] / "docs" / "clusters"


def main():
    files, records, folder = sys.argv[1:]
    sys.path.insert(0, str(RECIPES))
    import ray_train

    ray.init(
        num_cpus=2,
        include_dashboard=False,
        _temp_dir=files,
        runtime_env={"working_dir": str(RECIPES)},
    )
    config = {"records": records, "folder": folder, "run_key": dpjax.RunKey.from_seed(7)}
    ray_train.start(config, 2, "cpu")
    ray.shutdown()


if __name__ == "__main__":
    main()
