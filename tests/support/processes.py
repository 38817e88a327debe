"""Several processes that train together, over the loopback interface."""

import concurrent.futures
import contextlib
import json
import socket
import subprocess
import sys


def free_port():
    with contextlib.closing(socket.socket()) as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def start_two(script, *arguments):
    """Starts the script twice: its first arguments are the number of the process and a port."""
    port = str(free_port())
    return [
        subprocess.Popen(
            [sys.executable, script, str(number), port, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in (0, 1)
    ]


def wait_for(started, timeout=600):
    """What each of them printed and what it said besides, once all have ended."""
    try:
        # At once: a process that cannot print, because nobody reads, would let the other wait.
        with concurrent.futures.ThreadPoolExecutor() as readers:
            return list(readers.map(lambda process: process.communicate(timeout=timeout), started))
    finally:
        for process in started:
            process.kill()


def in_two_processes(script, *arguments):
    """What each of them found, the JSON of its last line."""
    started = start_two(script, *arguments)
    ended = wait_for(started)
    for process, (_, said) in zip(started, ended, strict=True):
        assert process.returncode == 0, said[-3000:]
    return [json.loads(printed.splitlines()[-1]) for printed, _ in ended]
