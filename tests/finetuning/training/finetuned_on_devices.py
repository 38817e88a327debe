"""Run as a script on eight CPU devices: one run after another, as a list in JSON says.

Each is a mapping of options of `finetune`, with "stop_after", a number of steps, or null; and with
"refused" where an error is expected. What each came to is printed as JSON in the last line.
"""

import json
import os
import signal
import sys

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
)

import dpjax
from dpjax.finetuning.training import loop


def run(options):
    stop_after, update = options.pop("stop_after"), loop.TrainingProgress.update

    def stop(self, done, *arguments):
        update(self, done, *arguments)
        if done == stop_after:
            signal.raise_signal(signal.SIGINT)

    is_refused = options.pop("refused", False)
    loop.TrainingProgress.update = stop
    try:
        result = dpjax.finetune(**options)
    except ValueError as error:
        if not is_refused:
            raise
        return str(error)
    except dpjax.RunInterrupted as stopped:
        return {"step": stopped.step}
    finally:
        loop.TrainingProgress.update = update
    return {
        "epsilon": result.epsilon,
        "perplexity": result.eval_perplexity,
        "warnings": result.warnings,
        "written": [sample.written for sample in result.samples],
    }


if __name__ == "__main__":
    found = [run(options) for options in json.load(sys.stdin)]
    print("\n" + json.dumps(found))
