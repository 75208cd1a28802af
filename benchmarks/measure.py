"""One measurement is one fresh process: it prints a line of JSON with its rate and its peak memory."""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import contextmanager


def report(facts: dict) -> None:
    """Print what was measured, with the peak resident memory of this process in MB, as one line of JSON."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    print(json.dumps({**facts, "memory": round(peak)}))


def rate(done: Iterable[float], seconds: float, warm_up: int = 5) -> float:
    """Items per second from an iterator that counts them, measured for `seconds` after `warm_up` items."""
    start = None
    for number, count in enumerate(done):
        now = time.perf_counter()
        if number == warm_up:
            start = (count, now)
        elif start and now - start[1] > seconds:
            return (count - start[0]) / (now - start[1])
    raise RuntimeError("the iterator ended before the measurement")


def measure(module: str, *arguments: str, **variables: str) -> dict:
    """Run `python -m benchmarks.<module> arguments` with these environment variables and return what it reported."""
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{module}", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **variables},
    )
    if done.returncode:
        raise SystemExit(f"benchmarks.{module} {' '.join(arguments)} failed:\n{done.stderr.strip()[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


@contextmanager
def busy_process():
    """Another process that keeps one core busy, for as long as the block runs."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"], env=os.environ)
    try:
        yield
    finally:
        process.kill()
        process.wait()
