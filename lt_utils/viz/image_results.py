"""A stored run of notebook 06 (course.reference, several seeds) as tables, for that notebook and the README."""

from lt_utils.metrics.extractors import NAMES
from lt_utils.viz.tables import MEASURES, made_with, markdown, with_spread

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
