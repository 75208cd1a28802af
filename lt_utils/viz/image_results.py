"""Measured image generators: from a card, as rows of a record, compared seed by seed; and a stored run as tables.

Results are {(generator, seed, guidance): {group: {measure: value}}}, with the groups "all", many, medium and few.
"""

from collections.abc import Sequence

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from lt_utils.metrics.extractors import NAMES
from lt_utils.metrics.statistics import mean_error, mean_std, student
from lt_utils.viz.figures import METHOD_COLOURS, headline, seed_dot
from lt_utils.viz.tables import MEASURES, made_with, markdown, with_spread

Results = dict[tuple[str, int, float], dict[str, dict[str, float]]]
COMPARED = ("kd", "precision", "recall", "label_accuracy", "distance_ratio")  # of the paired rows of a record

# Measures of the paired differences: the factor that makes the unit, and the heading.
PAIRED = {
    "kd": (1000, "kernel distance x 1000"),
    "precision": (100, "precision %"),
    "recall": (100, "recall %"),
    "label_accuracy": (1, "label accuracy %"),
}


def stored_tables(record: dict) -> str:
    """Markdown: the generators of the record, what balancing changed from seed to seed, and classifiers on their images."""
    rows = []
    for stored in record["rows"]:
        if stored["method"] != "start" and stored["omega"] == record["parameters"]["OMEGA"]:
            row = short_names(with_spread(stored))
            line = {"generator": row["method"], "kernel distance x 1000": times(1000, row["kd"])}
            line |= {f"{name} %": times(100, row[name]) for name in ("precision", "recall")}
            line |= {"label accuracy %": row["label_accuracy"], "of the few %": row["few"]}
            rows.append(line | {"distance ratio, few": row["few distance_ratio"]})
    pairs = []
    for pair in record.get("paired", ()):  # only runs of several seeds have pairs
        line = {"balanced minus": pair["minus"], "classes": pair["group"]}
        line |= {heading: times(factor, (pair[name], pair[f"{name} se"])) for name, (factor, heading) in PAIRED.items()}
        pairs.append(line)
    classifiers = [with_spread(row) for row in record.get("classifiers", ())]
    for line in classifiers:
        line["classes filled with"] = line.pop("filled")
    parts = [markdown(rows)]
    if pairs:
        parts += ["Balanced minus the other, seed by seed: mean ± standard error.", markdown(pairs)]
    if classifiers:
        caption = "Classifiers trained on the long-tailed images and what fills the rare classes up, all for equally many steps:"
        parts += [caption, markdown(classifiers, ["classes filled with", *MEASURES[:4]])]
    return "\n\n".join([*parts, f"*{record['title']}; {made_with(record)}. {record['note']}*"])


def short_names(row: dict) -> dict:
    """A row of `generation.measure` with names such as "recall" instead of "recall_k5[judge@...]".

    What the original Inception calls "fid" is "fd" here, too: which network measured stands in the record.
    """
    general, short = dict(NAMES.values()), {}
    for name, value in row.items():
        *group, measure = name.split("[")[0].split(" ")  # "few kd[judge@...]"
        short[" ".join([*group, general.get(measure, measure).removesuffix("_k5")])] = value
    return short


def times(factor: float, value: float | tuple) -> float | tuple:
    """A number, or a mean with its spread, in another unit."""
    return tuple(factor * part for part in value) if isinstance(value, tuple) else factor * value


def card_results(name: str, card: dict) -> Results:
    """What the card of a trained generator ("balanced-seed1") holds, as results of the generator "balanced" with seed 1."""
    generator, seed = name.rsplit("-seed", 1)
    results = {}
    for omega, by_group in card["measures"].items():
        rows = {group: dict(row) for group, row in by_group.items() if isinstance(row, dict)}
        for row in rows.values():
            row["distance_ratio"] = row.pop("memorisation")
        results[generator, int(seed), float(omega.removeprefix("omega "))] = rows
    return results


def value_of(results: Results, generator: str, seed: int, omega: float, group: str, name: str) -> float:
    """One measure by its short name, such as "kd"; nan if it was not measured."""
    return short_names(results.get((generator, seed, omega), {}).get(group, {})).get(name, float("nan"))


def seeds_of(results: Results, generator: str, omega: float) -> list[int]:
    """The seeds of a generator that were measured at that guidance."""
    return sorted(seed for one, seed, guidance in results if (one, guidance) == (generator, omega))


def seed_gaps(results: Results, one: str, other: str, omega: float, group: str, name: str) -> list[float]:
    """A measure of one generator minus that of the other, for each seed that both have."""
    both = sorted(set(seeds_of(results, one, omega)) & set(seeds_of(results, other, omega)))
    first, second = ([value_of(results, who, seed, omega, group, name) for seed in both] for who in (one, other))
    return [a - b for a, b in zip(first, second, strict=True)]


def verdict(gaps: Sequence[float], lower_is_better: bool = False) -> str:
    """ "better", "worse" or "not distinguishable" for paired differences: whether their 95 % interval (Student's t) leaves
    out 0; "one run: no interval" for a single one."""
    if len(gaps) < 2:
        return "one run: no interval"
    mean, error = mean_error(gaps)
    if not abs(mean) > student(len(gaps)) * error:
        return "not distinguishable"
    return "better" if (mean < 0) == lower_is_better else "worse"


def _groups(results: Results, generator: str, omega: float) -> list[str]:
    """The groups that a generator was measured in at that guidance; none if it was not."""
    measured = (rows for (who, _, guidance), rows in results.items() if (who, guidance) == (generator, omega))
    return list(next(measured, ()))


def paired_rows(results: Results, one: str, other: str, omega: float) -> list[dict]:
    """For a record: one generator minus the other by group, mean over the seeds and its standard error ("kd", "kd se")."""
    lines = []
    for group in _groups(results, one, omega):
        gaps = {name: seed_gaps(results, one, other, omega, group, name) for name in COMPARED}
        line = dict(method=one, minus=other, group=group, n=len(gaps["kd"]))
        for name, values in gaps.items():
            mean, error = mean_error(values)
            line |= {name: round(mean, 4), f"{name} se": round(error, 4)}
        lines.append(line)
    return lines


def generator_rows(results: Results, **same: object) -> list[dict]:
    """For a record: a row for each generator, seed and guidance, with the columns `same` in each.

    "label_accuracy" and the groups are label accuracies; other measures of a group have its name before theirs.
    """
    rows = []
    for (generator, seed, omega), by_group in results.items():
        row = dict(method=generator, seed=seed, omega=omega) | same
        row["label_accuracy"] = by_group["all"]["label_accuracy"]
        row |= {group: values["label_accuracy"] for group, values in by_group.items() if group != "all"}
        for group, values in by_group.items():
            prefix = "" if group == "all" else f"{group} "
            named = {"images" if name == "n" else name: value for name, value in values.items()}
            row |= {prefix + name: value for name, value in named.items() if name != "label_accuracy"}
        rows.append({name: round(value, 4) if isinstance(value, float) else value for name, value in row.items()})
    return rows


def level_rows(results: Results, omega: float) -> list[dict]:
    """For a table: each generator's mean and deviation over its seeds at that guidance, label accuracy by group first."""
    lines = []
    for generator in dict.fromkeys(who for who, _, guidance in results if guidance == omega):
        seeds = seeds_of(results, generator, omega)

        def over(group: str, name: str, factor: float = 1, who: str = generator, seeds: list = seeds) -> tuple:
            return mean_std([factor * value_of(results, who, seed, omega, group, name) for seed in seeds])

        line = {"generator": generator, "seeds": len(seeds), "label accuracy %": over("all", "label_accuracy")}
        *groups, last = [group for group in _groups(results, generator, omega) if group != "all"]
        line |= {f"of the {group} %": over(group, "label_accuracy") for group in (*groups, last)}
        line |= {"KD × 1000": over("all", "kd", 1000), f"of the {last} × 1000": over(last, "kd", 1000)}
        lines.append(line | {f"recall, {last} %": over(last, "recall", 100)})
    return lines


def verdict_rows(results: Results, one: str, other: str, omega: float) -> list[dict]:
    """For a table: one generator minus the other, by measure and group: mean and standard error over seeds, and a verdict."""
    lines = []
    for name in ("label_accuracy", "kd", "recall"):
        factor, heading = PAIRED[name]
        for group in _groups(results, one, omega):
            gaps = [factor * gap for gap in seed_gaps(results, one, other, omega, group, name)]
            row = dict(generator=one, minus=other, guidance=omega, measure=heading.replace(" %", ", points"))
            row |= {"classes": group, "by seed": ", ".join(f"{gap:+.1f}" for gap in gaps)}
            lines.append(row | {"difference": mean_error(gaps), "verdict": verdict(gaps, name == "kd")})
    return lines


def gap_panels(results: Results, one: str, other: str, omegas: Sequence[float], title: str) -> Figure:
    """One generator minus the other by group, a panel for each of three measures, a colour for each guidance.

    Small points are seeds, large ones their mean, lines its 95 % interval (two seeds or more).
    """
    names = ("label_accuracy", "kd", "recall")
    sides = ("right is better", "left is better", "right is better")
    figure, panels = plt.subplots(1, 3, figsize=(11, 3.7), sharey=True)
    groups = _groups(results, one, omegas[0])
    for axes, name, side in zip(panels, names, sides, strict=True):
        factor, heading = PAIRED[name]
        axes.axvline(0, color="#999999", lw=1.2, zorder=1)
        for row, group in enumerate(groups):
            axes.axhline(-row - 0.5, color="#DDDDDD", lw=0.8, zorder=0)
            for place, omega in enumerate(omegas):
                if gaps := [factor * gap for gap in seed_gaps(results, one, other, omega, group, name)]:
                    seed_dot(
                        axes, 0.06 - row + 0.36 * place - 0.18 * (len(omegas) - 1), gaps, METHOD_COLOURS[1 + place]
                    )
        axes.set_yticks([-row for row in range(len(groups))], groups)
        axes.set(
            title=heading.replace(" %", " (points)"),
            xlabel=f"{one} minus {other} ({side})",
            ylim=(0.5 - len(groups), 0.6),
        )
        axes.grid(axis="y", visible=False)
    handles = [plt.Line2D([], [], marker="o", color=METHOD_COLOURS[1 + i], ms=8, lw=1.6) for i in range(len(omegas))]
    figure.legend(handles, [f"guidance {omega:g}" for omega in omegas], loc="outside lower center", ncols=len(omegas))
    headline(figure, title)
    return figure
