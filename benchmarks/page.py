"""The page benchmarks/README.md: its tables and its picture, made from the stored results."""

import json
from pathlib import Path
from statistics import median, quantiles

from course.readme import fill

HERE = Path(__file__).parent


def measures_table(rows: list[dict], samples: int) -> list[str]:
    """The lines of the table of measures (benchmarks.measures)."""
    lines = [
        f"| {samples:,} against {samples:,} features of 2048 numbers | ours | torchmetrics |",
        "|:--|--:|--:|",
    ]
    for row in rows:
        cells = [
            f"{row[s]['seconds']:.1f} s, {row[s]['memory']:,} MB" if s in row else "" for s in ("ours", "torchmetrics")
        ]
        lines.append(f"| {row['name']} | {cells[0]} | {cells[1]} |")
    return lines


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


def processes_table(rows: list[dict]) -> list[str]:
    """The lines of the table of two processes that share each batch (benchmarks.ranks), ratios inside each round."""
    lines = [
        "| training, images/s | one thread | two threads | two processes | to one thread | to two threads |",
        "|:--|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        ratios = [
            [mine / theirs for mine, theirs in zip(row["processes"], row[side], strict=True)]
            for side in ("one", "threads")
        ]
        cells = [rounded(median(row[side])) for side in ("one", "threads", "processes")]
        lines.append(f"| {' | '.join([row['name'], *cells, *map(span, ratios)])} |")
    return lines


def short(value: float) -> str:
    """Three digits of a ratio: 1.71, 10.5, 1,940."""
    return f"{float(f'{value:.3g}'):,.0f}" if value >= 100 else f"{value:.3g}"


def rounded(rate: float) -> str:
    """A rate as text: three digits, or all of those before the point."""
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"


def span(values: list[float]) -> str:
    """The median of values, with the quartiles: "1.95 (1.92 to 1.99)"."""
    return f"{short(median(values))} {middle_half(values)}"


def middle_half(values: list[float]) -> str:
    """The quartiles of values: "(1.92 to 1.99)"."""
    low, _, high = quantiles(values, n=4, method="inclusive")
    return f"({short(low)} to {short(high)})"


def comparisons_table(results: dict) -> list[str]:
    """The lines of the table of tasks, ours beside the peer."""
    lines = [
        "| task | ours | peer | ratio (quartiles) | memory, ours / peer |",
        "|:--|--:|--:|--:|--:|",
    ]
    for row in results["tasks"]:
        lines.append(
            f"| {row['name']} | {rounded(median(row['ours']))} {row['unit']} | {rounded(median(row['peer']))} {row['unit']} "
            f"| **{short(median(row['ratio']))}** {middle_half(row['ratio'])} "
            f"| {row['memory'][0]:,} / {row['memory'][1]:,} MB |"
        )
    return lines


def caption(results: dict) -> str:
    """What the results were measured on."""
    made = results["made with"]
    return (
        f"*{made['device']}, {made['threads']} threads, {results['precision']}, torch {made['versions']['torch']}, commit "
        f"{str(made['commit'])[:7]}, {results['finished'][:10]}; {results['seconds']:g} s for each side.*"
    )


def table(results: dict) -> str:
    """The Markdown table of benchmarks/README.md."""
    lines = ["![The ratio of each task](speed.png)", "", *comparisons_table(results)]
    busy, accuracy = results["busy"], results["accuracy"]
    lines += [
        "",
        "Beside a process that keeps one core busy, encoder training with LT_THREADS=idle, which counts the "
        f"idle cores when it starts, keeps {percent(busy['share idle'])} of its quiet speed with all threads; without "
        f"this setting it keeps {percent(busy['share'])}. "
        f"After {accuracy['epochs']} epochs on the balanced bundled data ours reaches {accuracy['ours']:.1f} % "
        f"and the peer {accuracy['peer']:.1f} % (one run each). Precision there: ours "
        f"{results['precision']}, channels-last; the peer fp32. The U-Nets all run in {results['precision']}.",
        "",
        *fidelity_table(results["fidelity"]),
        "",
        f"A class-balancing step of the U-Net costs {span(results['balancing'])} plain steps.",
        "",
        *(processes_table(results["ranks"]) + [""] if "ranks" in results else ()),
        *measures_table(results["measures"], results["samples"]),
        "",
        caption(results),
    ]
    return "\n".join(lines)


def picture(results: dict) -> None:
    """benchmarks/speed.png: the ratio of each task, on a logarithmic axis."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from lt_utils.viz import figures

    figures.style()
    figure, axes = plt.subplots(figsize=(8, 3.6))
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


def write(results: dict) -> None:
    """Store the results, and draw the picture and write the tables of benchmarks/README.md from them."""
    (HERE / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    picture(results)
    readme = HERE / "README.md"
    readme.write_text(fill(readme.read_text(encoding="utf-8"), "table", table(results)), encoding="utf-8")


def write_comparisons(results: dict) -> None:
    """Store the comparisons alone, on another kind of processor, and write their table of benchmarks/README.md."""
    (HERE / "results_fp32.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    readme = HERE / "README.md"
    text = "\n".join([*comparisons_table(results), "", caption(results)])
    readme.write_text(fill(readme.read_text(encoding="utf-8"), "fp32 table", text), encoding="utf-8")
