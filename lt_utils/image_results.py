"""A stored run of notebook 06 (lt_utils.keep, several seeds) as tables, for that notebook and the README."""

from lt_utils.tables import MEASURES, made_with, markdown, with_spread

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
    for pair in record["paired"]:
        line = {"balanced minus": pair["minus"], "classes": pair["group"]}
        line |= {told: times(factor, (pair[name], pair[f"{name} se"])) for name, (factor, told) in PAIRED.items()}
        pairs.append(line)
    classifiers = [with_spread(row) for row in record["classifiers"]]
    for line in classifiers:
        line["classes filled with"] = line.pop("filled")
    return "\n\n".join(
        [
            markdown(rows),
            "Balanced minus the other, seed by seed: mean ± standard error.",
            markdown(pairs),
            "Classifiers trained on the long-tailed images and what fills the rare classes up, all for equally many steps:",
            markdown(classifiers, ["classes filled with", *MEASURES[:4]]),
            f"*{record['title']}; {made_with(record)}. {record['note']}*",
        ]
    )


def short_names(row: dict) -> dict:
    """A row of `generation_metrics.measure` with names such as "recall" instead of "recall_k5[judge@...]"."""
    return {name.split("[")[0].removesuffix("_k5"): value for name, value in row.items()}


def times(factor: float, value: float | tuple) -> float | tuple:
    """A number, or a mean with its spread, in another unit."""
    return tuple(factor * part for part in value) if isinstance(value, tuple) else factor * value
