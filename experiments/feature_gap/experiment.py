"""Does diffusion earn its place where the cause lies? python -m experiments.feature_gap --to runs/cause [--keep]

The cause: an encoder has seen its training images, so their features are too long and too tight, and every generator
copies that. Four remedies, each applied to diffusion and to its controls alike, under one protocol (`retraining.fit_head`):

    cross-fit     all training features moved and widened to where images unseen in training lie (crossfit.py)
    strong        features of strongly augmented views in place of clean ones; diffusion is fitted on them
    widened       added medium and few features wider around their mean, by a factor chosen on the folds; for diffusion
                  also negative guidance (omega = -0.3)
    in training   features added while the encoder trains (joint_training.py), in place of a frozen one

Added features fill up every class to the size of the largest, plain cross-entropy; without them, the class prior is
inside the loss (tau = 1). What is chosen, is chosen by the balanced accuracy on held-out folds of the TRAINING set ("folds"
in the rows). All else was fixed before the first result, but for the length of the generator's training, which was raised
after it from 300 to 2,000 steps (arms.GENERATOR), to the good of diffusion. The stored result,
notebooks/reference/08_where_the_cause_lies.json, is the second; --keep replaces it. A run that was stopped goes on from its
checkpoints.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from course.command import first_line, resumable
from course.reference import averaged, save_reference
from experiments.feature_gap import arms
from experiments.feature_gap.arms import CONTROLS, DIFFUSION, SPREAD_OUT, VIEWS, Arm
from experiments.feature_gap.crossfit import fold_encoders, fold_of
from lt_utils.data import datasets
from lt_utils.errors import CourseError
from lt_utils.features.encoding import encode_data
from lt_utils.files import read_json, write_json
from lt_utils.metrics.recognition import scores
from lt_utils.metrics.statistics import paired_difference
from lt_utils.recognition.encoders import train_encoder
from lt_utils.recognition.losses import label_shift
from lt_utils.runs.folder import Run, lock_run_folder
from lt_utils.training.devices import device
from lt_utils.viz.tables import REFERENCES, markdown, with_spread

NAME = "08_where_the_cause_lies"
COLUMNS = ("features", "method", "correction")
NOTE = (
    "Percent; mean ± standard deviation over the seeds, each with its own encoder, folds, diffusion and heads. "
    '"folds": balanced accuracy on training images that a fold held out; every choice was made by it. '
    '"minus label shift": paired difference ± its standard error over the seeds. Differences to the best control, also '
    'with the standard error over test images, stand under "differences" in the file. '
)


def measure(
    data: datasets.ImageData, run: Run, seeds: Sequence[int], folds: int, epochs: int
) -> tuple[list[dict], list[dict], dict[Arm, Tensor]]:
    """Rows for the record, the ratios of every seed, and what every method got right on the test set, [seeds, images]."""
    rows, ratios, right = [], [], {}

    def note(arm: Arm, seed: int, logits: Tensor, **more) -> None:
        columns = dict(zip(COLUMNS, arm, strict=True), data=data.name, seed=seed)
        rows.append({**columns, **scores(logits, data.test_labels, data.counts), **more})
        right.setdefault(arm, []).append(logits.argmax(1) == data.test_labels)

    for seed in seeds:
        model = train_encoder(data, epochs=epochs, seed=seed, checkpoint=run.checkpoint(f"encoder-seed{seed}"))
        final = encode_data(model, data)
        cut = fold_encoders(data, folds, seed=seed, folder=run.path / "checkpoints", epochs=epochs)
        labels = torch.cat([one.test_labels for one in cut])
        for name, change in (("CE", lambda z, _: z), ("Label shift", label_shift)):
            held = torch.cat([change(one.test_logits, one.counts) for one in cut])
            value = arms.balanced_accuracy(held, labels)
            note(("-", name, "-"), seed, change(final.test_logits, data.counts), folds=value)
        for kind in VIEWS:
            found, table = arms.frozen_rows(final, cut, kind, seed, run.checkpoint)
            ratios += table
            for arm, (logits, value, width) in found.items():
                note(arm, seed, logits, folds=value, **({"width": width} if arm[2] == arms.WIDENED else {}))
        for arm, logits in arms.trained_rows(data, epochs, seed, run.checkpoint).items():
            note(arm, seed, logits)
    return rows, ratios, {arm: torch.stack(values) for arm, values in right.items()}


# ---------------------------------------------------------------------------------------------------------- differences
def difference(first: Tensor, second: Tensor) -> dict[str, float]:
    """statistics.paired_difference of what two methods got right [seeds, images], rounded and named."""
    return {
        name: round(value, 2)
        for name, value in zip(("difference", "se", "se images"), paired_difference(first, second), strict=True)
    }


def compare(rows: list[dict], right: dict[Arm, Tensor]) -> list[dict]:
    """Every diffusion row against label shift and against the best control on the same features; then the choice.

    The best control is that of the highest mean "folds" of all seeds; in training, where no fold was held out, that of the
    highest test accuracy, which favours the control. The last two rows choose diffusion, too, on the folds: against the
    control chosen there, and against the one that is best on the test set.
    """

    def mean(arm: Arm, column: str) -> float:
        values = [row[column] for row in rows if (row["features"], row["method"], row["correction"]) == arm]
        return sum(values) / len(values)

    def line(arm: Arm, rival: Arm, chosen: str) -> dict:
        names = {"diffusion": ", ".join(arm), "rival": ", ".join(rival), "rival chosen": chosen}
        return names | difference(right[arm], right[rival])

    generated = [arm for arm in right if arm[1] in (DIFFUSION, SPREAD_OUT)]
    frozen = [arm for arm in right if arm[0] in VIEWS]
    controls = [arm for arm in right if arm[1] in CONTROLS]
    found = []
    for arm in generated:
        column = "folds" if arm in frozen else "accuracy"
        rival = max((c for c in controls if c[0] == arm[0]), key=lambda c: mean(c, column))
        found += [line(arm, ("-", "Label shift", "-"), "-"), line(arm, rival, "folds" if arm in frozen else "test set")]
    best = max((arm for arm in generated if arm in frozen), key=lambda arm: mean(arm, "folds"))
    rivals = {"folds": [c for c in controls if c in frozen], "test set": [c for c in controls if c in frozen]}
    for column, name in (("folds", "folds"), ("accuracy", "test set")):
        rival = max(rivals[name], key=lambda c: mean(c, column))
        found.append({**line(best, rival, name), "diffusion": ", ".join(best) + " (chosen on the folds)"})
    return found


def shown(found: dict) -> str:
    """ "-0.52 ± 0.20": a difference and its standard error over the seeds."""
    return f"{found['difference']:+.2f} ± {found['se']:.2f}"


def summary(rows: list[dict], right: dict[Arm, Tensor]) -> list[dict]:
    """One row for each method, averaged over the seeds, with its paired difference to label shift as a text."""
    lines = averaged(rows, COLUMNS)
    for line in lines:
        arm = tuple(line[column] for column in COLUMNS)
        line["minus label shift"] = shown(difference(right[arm], right["-", "Label shift", "-"]))
    return lines


@resumable
def main(arguments: list[str] | None = None) -> int:
    """The command line; exit status 0, 2 with one sentence, or 130 when it was stopped."""
    parser = argparse.ArgumentParser(prog="python -m experiments.feature_gap", description=first_line(__doc__))
    parser.add_argument("--to", type=Path, required=True, help="folder of this run; a stopped run goes on there")
    parser.add_argument("--data", default="fashion-mnist-small", help="data set, as in DATASET of the notebooks")
    parser.add_argument("--imbalance", type=float, default=100, help="imbalance factor")
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds, from 0; at least 2")
    parser.add_argument("--folds", type=int, default=3, help="folds of the training set; at least 3")
    parser.add_argument("--epochs", type=int, default=15, help="epochs of every encoder (a ResNet-8)")
    parser.add_argument("--keep", action="store_true", help="write the reference beside the notebooks")
    chosen = parser.parse_args(arguments)
    if min(chosen.seeds, chosen.folds - 1) < 2:
        raise CourseError("A standard error needs --seeds 2 or more, and a choice on the folds --folds 3 or more.")
    if chosen.epochs <= arms.REFIT_EVERY:
        raise CourseError(f"In training, features are fitted anew every {arms.REFIT_EVERY} --epochs: take more.")
    data = datasets.load(chosen.data).long_tailed(chosen.imbalance).to(device())
    fold_of(data.train_labels, chosen.folds)  # refuse before an earlier run is moved aside
    facts = {name.upper(): value for name, value in vars(chosen).items() if name not in ("to", "keep")}
    facts |= {name: getattr(arms, name) for name in ("HEAD", "GENERATOR", "FED_STEPS", "SAMPLING", "REFIT_EVERY")}
    facts |= {"WIDTHS": list(arms.WIDTHS)}
    lock_run_folder(chosen.to, NAME, facts)
    run = Run(chosen.to.absolute(), NAME, facts)
    rows, ratios, right = measure(data, run, range(chosen.seeds), chosen.folds, chosen.epochs)
    table, found = summary(rows, right), compare(rows, right)
    run.finish(rows, ratios=ratios, differences=found)
    best = [line for line in found if "chosen on the folds" in line["diffusion"]]
    differences = "; ".join(
        f"minus {line['rival']} (chosen on the {line['rival chosen']}): {shown(line)}" for line in best
    )
    result = f"Diffusion chosen on the folds, {best[0]['diffusion'].split(' (')[0]}, {differences}."
    if chosen.keep:
        title = f"{data.name}, ResNet-8 of {chosen.epochs} epochs, {chosen.folds} folds, {chosen.seeds} seeds"
        path = save_reference(chosen.to, NAME, title, NOTE + result, COLUMNS, REFERENCES)
        by_group = averaged(ratios, ("features", "group"))
        write_json(path, read_json(path) | {"rows": table, "differences": found, "ratios": by_group})
    print(markdown([with_spread(line) for line in table], digits=2), markdown(found, digits=2), result, sep="\n\n")
    return 0
