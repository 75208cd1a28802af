"""make bench: every comparison in one run, as ratios, with a table and a picture in benchmarks/README.md.

    python -m benchmarks [--seconds 20] [--rounds 3] [--epochs 3] [--fidelity 20] [--samples 10000]
    python -m benchmarks --fp32 [--seconds 20]    the comparisons alone, as on a processor without bf16: a second table

Ours and the peer take turns in one process, about a second each, until each has run for --seconds; a ratio is taken inside a
pair of turns, and the table gives the median over the pairs with the quartiles. Memory is that of a process in which one side
runs alone. Nothing here is a test: speed depends on the machine.
"""

import argparse
import os
from datetime import UTC, datetime
from statistics import median

from benchmarks import page
from benchmarks.measure import busy_process, measure
from benchmarks.measures import IN_TORCHMETRICS, MEASURES
from benchmarks.ranks import TASKS as RANKS
from course.command import first_line
from lt_utils.runs.provenance import surroundings

# name, unit, module, the two sides as benchmarks.turns takes them
TASKS = (
    ("Encoder training, ResNet-32 (0.46 M), batch 64", "images/s", "encoder", "ours/64", "peer/64"),
    ("The same, batch 256", "images/s", "encoder", "ours/256", "peer/256"),
    ("Batch 256, AutoAugment, Cutout", "images/s", "encoder", "ours/256/autoaugment", "peer/256/autoaugment"),
    ("Latent diffusion, training", "features/s", "latent", "ours/train", "peer/train"),
    ("Latent diffusion, sampling", "features/s", "latent", "ours/sample", "peer/sample"),
    ("U-Net (35.8 M), training, diffusers", "images/s", "images", "ours/train", "diffusers/train"),
    ("U-Net, sampling, diffusers", "images/s", "images", "ours/sample", "diffusers/sample"),
    ("U-Net, training, lucidrains", "images/s", "images", "ours/train", "lucidrains/train"),
    ("U-Net, sampling, lucidrains", "images/s", "images", "ours/sample", "lucidrains/sample"),
    ("Vision transformer (0.2 M), training, timm", "images/s", "vit", "ours/nano", "timm/nano"),
)


def take_turns(name: str, unit: str, module: str, one: str, other: str, seconds: float) -> dict:
    """Rates of both sides in each pair of turns, and their ratios."""
    pairs = measure("turns", module, one, other, "--seconds", str(seconds))["pairs"]
    ours, peer = ([pair[side] for pair in pairs] for side in (0, 1))
    ratio = [mine / theirs for mine, theirs in pairs]
    print(f"{name}: {median(ours):,.3g} against {median(peer):,.3g} {unit}, ratio {page.span(ratio)}", flush=True)
    return {"name": name, "unit": unit, "ours": ours, "peer": peer, "ratio": ratio}


def compare(name: str, unit: str, module: str, one: str, other: str, seconds: float) -> dict:
    """What `take_turns` finds, and the peak memory of each side alone, in MB."""
    alone = [measure(module, *side.split("/"), "--seconds", "1")["memory"] for side in (one, other)]
    return take_turns(name, unit, module, one, other, seconds) | {"memory": alone}


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


def by_processes(rounds: int, seconds: float) -> list[dict]:
    """Images per second of a training on one thread, on two, and in two processes of one thread each, in turn."""
    rows = []
    for task in RANKS:
        rates: dict[str, list[float]] = {"one": [], "threads": [], "processes": []}
        for _ in range(rounds):
            for side, processes, threads in (("one", 1, 1), ("threads", 1, 2), ("processes", 2, 2)):
                how = (task, str(processes), "--seconds", str(seconds))
                rates[side].append(measure("ranks", *how, OMP_NUM_THREADS=str(threads))["rate"])
        rows.append({"name": task, **rates})
        print(*page.processes_table(rows[-1:])[2:], sep="\n", flush=True)
    return rows


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
    parser = argparse.ArgumentParser(description=first_line(__doc__))
    parser.add_argument("--seconds", type=float, default=20, help="of each side of each comparison")
    parser.add_argument("--fp32", action="store_true", help="the comparisons alone, without bf16: the second table")
    parser.add_argument("--rounds", type=int, default=3, help="beside a busy process, of half of --seconds")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--fidelity", type=float, default=20, help="seconds of training before features are compared")
    parser.add_argument("--samples", type=int, default=10_000, help="features of a kind for the measures of images")
    options = parser.parse_args()
    from lt_utils.training.devices import device, precision_for

    if options.fp32:
        os.environ["LT_PRECISION"] = "fp32"
    results = {"seconds": options.seconds, "precision": precision_for(device())}
    results["tasks"] = [compare(*task, options.seconds) for task in TASKS]
    if options.fp32:
        results["made with"], results["finished"] = surroundings(), datetime.now(UTC).isoformat(timespec="seconds")
        page.write_comparisons(results)
        print(
            "\n"
            + "\n".join(page.comparisons_table(results))
            + "\n\nWritten to benchmarks/README.md, results_fp32.json."
        )
        return
    results["busy"] = beside_busy(options.rounds, options.seconds / 2)
    trained = {side: measure("encoder", side, "--epochs", str(options.epochs))["accuracy"] for side in ("ours", "peer")}
    results["accuracy"] = {"epochs": options.epochs, **trained}
    results["fidelity"] = measure("fidelity", "--seconds", str(options.fidelity))
    print(*page.fidelity_table(results["fidelity"]), sep="\n", flush=True)
    steps = take_turns("Class-balancing step", "images/s", "images", "ours/train", "ours/balanced", options.seconds)
    results["balancing"] = steps["ratio"]
    results["ranks"] = by_processes(options.rounds, options.seconds / 2)
    results["samples"], results["measures"] = options.samples, time_measures(options.samples)
    results["made with"], results["finished"] = surroundings(), datetime.now(UTC).isoformat(timespec="seconds")
    page.write(results)
    print("\n" + page.table(results) + "\n\nWritten to benchmarks/README.md, results.json and speed.png.")


if __name__ == "__main__":
    main()
