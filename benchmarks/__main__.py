"""make bench: every comparison in one run, as ratios, with a table and a picture in benchmarks/README.md.

    python -m benchmarks [--rounds 3] [--seconds 10] [--epochs 3] [--fidelity 20] [--samples 10000]

In each round ours and the peer run one after the other, each in a fresh process; a ratio is taken inside a round, and the
table gives the median over the rounds with the smallest and the largest. Nothing here is a test: speed depends on the machine.
"""

import argparse
from datetime import UTC, datetime

from benchmarks import page
from benchmarks.measure import busy_process, measure
from benchmarks.measures import IN_TORCHMETRICS, MEASURES
from lt_utils.provenance import surroundings

# name, unit, module, what the module is asked for, which side is the peer
TASKS = (
    ("Encoder training, ResNet-32 (0.46 M)", "images/s", "encoder", (), "peer"),
    ("Latent diffusion, training", "features/s", "latent", ("train",), "peer"),
    ("Latent diffusion, sampling", "features/s", "latent", ("sample",), "peer"),
    ("U-Net (35.8 M), training, diffusers", "images/s", "images", ("train",), "diffusers"),
    ("U-Net, sampling, diffusers", "images/s", "images", ("sample",), "diffusers"),
    ("U-Net, training, lucidrains", "images/s", "images", ("train",), "lucidrains"),
    ("U-Net, sampling, lucidrains", "images/s", "images", ("sample",), "lucidrains"),
)
STEPS = ("train", "balanced")  # tasks of benchmarks.images: a plain step, a class-balancing step


def compare(
    name: str, unit: str, module: str, arguments: tuple[str, ...], against: str, rounds: int, seconds: float
) -> dict:
    """Rates of ours and the peer in each round, their ratio in each round, and the largest memory of each."""
    ours, peer = [], []
    for number in range(rounds):
        for side, results in (("ours", ours), (against, peer)):
            results.append(measure(module, side, *arguments, "--seconds", str(seconds)))
        print(f"{name}, round {number + 1}: {ours[-1]['rate']:,.3g} against {peer[-1]['rate']:,.3g} {unit}", flush=True)
    return {
        "name": name,
        "unit": unit,
        "ours": [result["rate"] for result in ours],
        "peer": [result["rate"] for result in peer],
        "ratio": [mine["rate"] / theirs["rate"] for mine, theirs in zip(ours, peer, strict=True)],
        "memory": [max(result["memory"] for result in results) for results in (ours, peer)],
    }


def beside_busy(rounds: int, seconds: float) -> dict:
    """Encoder training quiet and beside a busy process, in turn, and there also with LT_THREADS=idle: images/s.

    "share" and "share idle" are the parts of the quiet speed, which is that of all threads, that are left.
    """
    rates: dict[str, list[float]] = {"quiet": [], "busy": [], "busy idle": []}
    task = ("encoder", "ours", "--seconds", str(seconds))
    for number in range(rounds):
        rates["quiet"].append(measure(*task, LT_THREADS="")["rate"])
        with busy_process():
            rates["busy"].append(measure(*task, LT_THREADS="")["rate"])
            rates["busy idle"].append(measure(*task, LT_THREADS="idle")["rate"])
        quiet, busy, idle = (values[-1] for values in rates.values())
        print(
            f"Beside a busy process, round {number + 1}: {busy:,.0f} of {quiet:,.0f} images/s; "
            f"{idle:,.0f} with LT_THREADS=idle",
            flush=True,
        )
    shares = {
        name: [there / here for there, here in zip(rates[key], rates["quiet"], strict=True)]
        for name, key in (("share", "busy"), ("share idle", "busy idle"))
    }
    return rates | shares


def balancing_cost(rounds: int, seconds: float) -> list[float]:
    """How many times as long as a plain step the class-balancing step of the U-Net takes, in each round."""
    found = []
    for number in range(rounds):
        plain, balanced = (measure("images", "ours", task, "--seconds", str(seconds))["rate"] for task in STEPS)
        found.append(plain / balanced)
        print(f"Class-balancing step, round {number + 1}: {found[-1]:.2f} plain steps", flush=True)
    return found


def time_measures(samples: int) -> list[dict]:
    """Seconds and memory of each measure of generated images, and torchmetrics' where it has that measure."""
    rows = []
    for key, (name, _) in MEASURES.items():
        row = {"name": name, "ours": measure("measures", "ours", key, "--samples", str(samples))}
        if key in IN_TORCHMETRICS:
            row["torchmetrics"] = measure("measures", "torchmetrics", key, "--samples", str(samples))
        print(f"{name}: {row['ours']['seconds']:.1f} s, {row['ours']['memory']:,} MB", flush=True)
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--fidelity", type=float, default=20, help="seconds of training before features are compared")
    parser.add_argument("--samples", type=int, default=10_000, help="features of a kind for the measures of images")
    options = parser.parse_args()
    from lt_utils.training import device, precision_for

    results = {"seconds": options.seconds, "precision": precision_for(device())}
    results["tasks"] = [compare(*task, options.rounds, options.seconds) for task in TASKS]
    results["busy"] = beside_busy(options.rounds, options.seconds)
    trained = {side: measure("encoder", side, "--epochs", str(options.epochs))["accuracy"] for side in ("ours", "peer")}
    results["accuracy"] = {"epochs": options.epochs, **trained}
    results["fidelity"] = measure("fidelity", "--seconds", str(options.fidelity))
    print(*page.fidelity_table(results["fidelity"]), sep="\n", flush=True)
    results["balancing"] = balancing_cost(options.rounds, options.seconds)
    results["samples"], results["measures"] = options.samples, time_measures(options.samples)
    results["made with"], results["finished"] = surroundings(), datetime.now(UTC).isoformat(timespec="seconds")
    page.write(results)
    print("\n" + page.table(results) + "\n\nWritten to benchmarks/README.md, results.json and speed.png.")


if __name__ == "__main__":
    main()
