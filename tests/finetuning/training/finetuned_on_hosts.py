"""Run as a script, one process of two with two CPU devices each: `finetune`, as a file says.

Arguments: the number of the process, the port of process 0, and a file with a list of runs in JSON.
Each is a mapping of options of `finetune`, perhaps with "process", "step" and "event": what happens
to whom after which step, the number of a signal or "full disk"; and with "in_1", options of process
1 alone. Each process runs in a folder of its own, named by its number, beside the file. What a run
came to is printed as JSON, a line for each.
"""

import errno
import json
import os
import sys
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0"
)

import jax

import dpjax
from dpjax.finetuning.training import loop
from dpjax.training.files.metrics_log import MetricsLog


def run(options, number):
    event, step, process = (options.pop(name, None) for name in ("event", "step", "process"))
    in_1 = options.pop("in_1", {})
    options |= in_1 if number == 1 else {}
    update, append = loop.TrainingProgress.update, MetricsLog.append

    def updated(self, done, *arguments):
        update(self, done, *arguments)
        if (done, number) == (step, process) and event != "full disk":
            os.kill(os.getpid(), event)

    def appended(self, row):
        if (row["step"], event) == (step, "full disk"):
            raise OSError(errno.ENOSPC, "No space left on device")
        append(self, row)

    loop.TrainingProgress.update, MetricsLog.append = updated, appended
    try:
        result = dpjax.finetune(**options)
    except (ValueError, OSError, dpjax.RunInterrupted, dpjax.RunStopped) as error:
        kind, step = type(error).__name__, getattr(error, "step", None)
        return {"kind": kind, "said": str(error), "step": step} | {
            "signal": getattr(error, "signal_number", None)
        }
    finally:
        loop.TrainingProgress.update, MetricsLog.append = update, append
    return {
        "epsilon": result.epsilon,
        "accuracy": result.eval_accuracy,
        "auc": result.attack.auc,
        "scores": [canary["score"] for canary in result.audit["canaries"]],
        "losses": [row["loss"] for row in result.metrics],
        "evaluated": [row["eval_loss"] for row in result.metrics if "eval_loss" in row],
        "warnings": result.warnings,
        "files": sorted(path.name for path in Path().rglob("*")),
    }


def main():
    number, port, file = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
        f"127.0.0.1:{port}", num_processes=2, process_id=number, heartbeat_timeout_seconds=10
    )
    runs = json.loads(file.read_text())
    os.chdir(file.with_name(str(number)))
    for options in runs:
        print("\n" + json.dumps(run(options, number)), flush=True)


if __name__ == "__main__":
    main()
