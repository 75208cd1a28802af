"""make bench: every comparison in one run, as ratios, with a table and a picture in benchmarks/README.md.

    python -m benchmarks [--rounds 3] [--seconds 10] [--epochs 3] [--fidelity 20]

In each round ours and the peer run one after the other, each in a fresh process; a ratio is taken inside a round, and the
table gives the median over the rounds with the smallest and the largest. Nothing here is a test: speed depends on the machine.
"""

import argparse
import json
import re
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from benchmarks.measure import busy_process, measure
from lt_utils.provenance import surroundings

HERE = Path(__file__).parent
TASKS = (
    ("Encoder training, ResNet-32 (0.46 M)", "images/s", "encoder", ()),
    ("Latent diffusion, training", "features/s", "latent", ("train",)),
    ("Latent diffusion, sampling", "features/s", "latent", ("sample",)),
)


def compare(name: str, unit: str, module: str, arguments: tuple[str, ...], rounds: int, seconds: float) -> dict:
    """Rates of ours and the peer in each round, their ratio in each round, and the largest memory of each."""
    ours, peer = [], []
    for number in range(rounds):
        for side, results in (("ours", ours), ("peer", peer)):
            results.append(measure(module, side, *arguments, "--seconds", str(seconds)))
        print(f"{name}, round {number + 1}: {ours[-1]['rate']:,.1f} against {peer[-1]['rate']:,.1f} {unit}", flush=True)
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


def percent(shares: list[float]) -> str:
    """The median of shares, with the smallest and the largest: "56 % (55 to 58 %)"."""
    return f"{100 * median(shares):.0f} % ({100 * min(shares):.0f} to {100 * max(shares):.0f} %)"


def fidelity_table(result: dict) -> list[str]:
    """The lines of the table of generated features (benchmarks.fidelity)."""
    lines = [
        f"| features of {result['dim']} numbers, {result['samples']} of them | trained on | Fréchet distance | head accuracy |",
        "|:--|--:|--:|--:|",
    ]
    for row in result["rows"]:
        trained = f"{row['seen']:,} features, {row['seconds']:.1f} s" if "seen" in row else ""
        lines.append(f"| {row['name']} | {trained} | {row['frechet']:.3g} | {row['accuracy']:.0f} % |")
    return lines


def short(value: float) -> str:
    """Three digits of a ratio: 1.71, 10.5, 1,940."""
    return f"{float(f'{value:.3g}'):,.0f}" if value >= 100 else f"{value:.3g}"


def table(results: dict) -> str:
    """The Markdown table of benchmarks/README.md."""
    lines = [
        "![The ratio of each task](speed.png)",
        "",
        "| task | ours | peer | ratio (smallest to largest) | memory, ours / peer |",
        "|:--|--:|--:|--:|--:|",
    ]
    for row in results["tasks"]:
        ratios = row["ratio"]
        lines.append(
            f"| {row['name']} | {median(row['ours']):,.0f} {row['unit']} | {median(row['peer']):,.4g} {row['unit']} "
            f"| **{short(median(ratios))}** ({short(min(ratios))} to {short(max(ratios))}) "
            f"| {row['memory'][0]:,} / {row['memory'][1]:,} MB |"
        )
    busy, accuracy = results["busy"], results["accuracy"]
    made = results["made with"]
    lines += [
        "",
        "Beside a process that keeps one core busy, encoder training with LT_THREADS=idle, which counts the "
        f"idle cores when it starts, keeps {percent(busy['share idle'])} of its quiet speed with all threads; without "
        f"this setting it keeps {percent(busy['share'])}. "
        f"After {accuracy['epochs']} epochs on the balanced bundled data ours reaches {accuracy['ours']:.1f} % "
        f"and the peer {accuracy['peer']:.1f} % (one run each). Precision: ours "
        f"{results['precision']}, channels-last; the peer fp32.",
        "",
        *fidelity_table(results["fidelity"]),
        "",
        f"*{made['device']}, {made['threads']} threads, torch {made['versions']['torch']}, commit {str(made['commit'])[:7]}, "
        f"{results['finished'][:10]}; {len(results['tasks'][0]['ratio'])} rounds of {results['seconds']:g} s.*",
    ]
    return "\n".join(lines)


def picture(results: dict) -> None:
    """benchmarks/speed.png: the ratio of each task, on a logarithmic axis."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from lt_utils import figures

    figures.style()
    figure, axes = plt.subplots(figsize=(8, 2.2))
    names = [row["name"] for row in results["tasks"]]
    values = [median(row["ratio"]) for row in results["tasks"]]
    axes.barh(names, values, color=figures.METHOD_COLOURS[1])
    for place, value in enumerate(values):
        axes.annotate(f" {short(value)} x", (value, place), va="center", fontsize=9)
    axes.axvline(1, color="black", lw=1)
    axes.set(
        xscale="log",
        xlabel="times the peer's speed",
        xlim=(0.8, max(values) * 4),
        title="Speed beside the peer, in the same run",
    )
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    figure.savefig(HERE / "speed.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--fidelity", type=float, default=20, help="seconds of training before features are compared")
    options = parser.parse_args()
    from lt_utils.training import device, precision_for

    results = {"seconds": options.seconds, "precision": precision_for(device())}
    results["tasks"] = [compare(*task, options.rounds, options.seconds) for task in TASKS]
    results["busy"] = beside_busy(options.rounds, options.seconds)
    trained = {side: measure("encoder", side, "--epochs", str(options.epochs))["accuracy"] for side in ("ours", "peer")}
    results["accuracy"] = {"epochs": options.epochs, **trained}
    results["fidelity"] = measure("fidelity", "--seconds", str(options.fidelity))
    print(*fidelity_table(results["fidelity"]), sep="\n", flush=True)
    results["made with"], results["finished"] = surroundings(), datetime.now(UTC).isoformat(timespec="seconds")
    (HERE / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    picture(results)
    readme = HERE / "README.md"
    text = readme.read_text(encoding="utf-8")
    text = re.sub(
        r"(<!-- table -->\n).*?(<!-- /table -->)",
        lambda found: found[1] + table(results) + "\n" + found[2],
        text,
        flags=re.S,
    )
    readme.write_text(text, encoding="utf-8")
    print("\n" + table(results) + "\n\nWritten to benchmarks/README.md, results.json and speed.png.")


if __name__ == "__main__":
    main()
