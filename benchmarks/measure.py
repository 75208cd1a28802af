"""A measurement runs in a process of its own and prints one line of JSON: a rate and peak memory, or the rates of two loops
that take turns."""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch


def now() -> float:
    """Seconds, when a GPU has done what it was asked for; a CPU works at once."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
    return time.perf_counter()


def report(facts: dict) -> None:
    """Print what was measured, with the peak resident memory of this process in MB, as one line of JSON."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    print(json.dumps({**facts, "memory": round(peak)}))


def rate(done: Iterable[float], seconds: float, warm_up: int = 5) -> float:
    """Items per second from an iterator that counts them, measured for `seconds` after `warm_up` items."""
    start = None
    for number, count in enumerate(done):
        moment = now()
        if number == warm_up:
            start = (count, moment)
        elif start and moment - start[1] > seconds:
            return (count - start[0]) / (moment - start[1])
    raise RuntimeError("the iterator ended before the measurement")


def turns(
    one: Iterator[float], other: Iterator[float], seconds: float, burst: float = 1.0
) -> list[tuple[float, float]]:
    """Rates (items per second) of two iterators that count items, in turn, until each has run for `seconds`.

    There are at least three pairs. A turn lasts `burst` seconds, or one item if that takes longer; who begins changes each
    time. A machine that is shared changes its speed from one second to the next, which hits both sides of a pair alike:
    their ratio says more than that of two long runs. The first turn, which chooses kernels and allocates memory, is not
    counted.
    """
    sides, pairs, spent = (one, other), [], 0.0
    seen = [next(one), next(other)]
    while spent < seconds or len(pairs) < 4:
        rates = [0.0, 0.0]
        for side in (0, 1) if len(pairs) % 2 else (1, 0):
            begin, start = seen[side], now()
            while (passed := now() - start) < burst:
                seen[side] = next(sides[side])
            rates[side] = (seen[side] - begin) / passed
            spent += passed / 2
        pairs.append((rates[0], rates[1]))
    return pairs[1:]


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
