"""What configurations cost: python -m course cost config/cifar.yaml ... [--gpus 1 8 64]

Runs and seconds stand in the configurations; the seconds are guesses for one recent GPU, as they say themselves. Image passes (an
image that goes forward and backward through the network that is trained) follow from their parameters.
"""

import sys
from pathlib import Path

from course.batch.plan import Job, plan, read_config
from course.command import command
from lt_utils.data.longtail import class_counts
from lt_utils.runs.parameters import declared, notebook_path

LARGEST = {
    "cifar10": (5000, 10),
    "cifar100": (500, 100),
    "fashion-mnist": (6000, 10),
    "fashion-mnist-small": (1000, 10),
}


def image_passes(job: Job) -> float:
    """Images that go through a network under training in a run: epochs x images, or steps x batch. 0 where little is trained.

    Heads on frozen features, the denoisers of features, judges and sampling are left out: small beside it.
    """
    known = declared(notebook_path(job.notebook)) | job.parameters
    largest, classes = LARGEST.get(known.get("DATASET"), (0, 1))
    n = sum(class_counts(largest, classes, known["IMBALANCE"])) if largest else 0
    if job.notebook.startswith("03"):
        epochs = {"WCDAS": known["WCDAS_EPOCHS"] + known["WCDAS_FINETUNE"], "Strong": known["STRONG_EPOCHS"]}
        return known["RUNS"] * n * sum(epochs.get(method, known["EPOCHS"]) for method in known["METHODS"])
    if job.notebook.startswith("04"):
        return 0 if known.get("GENERATOR") else known["STEPS"] * known["BATCH"]
    if job.notebook.startswith("06"):
        # A balanced arm sees each image under two labels.
        arms = sum((2 if arm.startswith("balanced") else 1) * steps * batch for arm, steps, batch in known["ARMS"])
        return known["RUNS"] * (arms + known["TRAIN_STEPS"] * known["BATCH"])
    if job.notebook.startswith("11"):
        pretrained = [start for start in known["STARTS"] if start != "scratch"]
        tuned = len(known["STARTS"]) * len(known["LOSSES"]) * known["RUNS"] * known["STEPS"] * known["BATCH"]
        return len(pretrained) * known["MAE_STEPS"] * known["MAE_BATCH"] + tuned
    return 0


def row(path: Path, gpus: list[int]) -> list[str]:
    """The cells of a configuration: name, runs, image passes, hours of one GPU (gpu: 0: of this CPU), and days with so many GPUs.

    Days are at least those of the longest run, which is not divided.
    """
    jobs = plan(read_config(path), check_data=False)
    hours, longest = sum(job.seconds for job in jobs) / 3600, max(job.seconds for job in jobs) / 3600
    days = [f"{max(hours / count, longest) / 24:,.2f}" for count in gpus]
    return [path.name, f"{len(jobs):,}", f"{sum(map(image_passes, jobs)) / 1e6:,.0f} M", f"{hours:,.1f}", *days]


@command(
    "cost",
    __doc__,
    ("config", dict(nargs="+", type=Path, help="configurations")),
    ("--gpus", dict(nargs="+", type=int, default=[1, 8, 64], help="numbers of GPUs (default 1 8 64)")),
)
def main(config: list[Path], gpus: list[int]) -> int:
    """Print a table in Markdown; returns the exit status."""
    header = ["configuration", "runs", "image passes", "hours, guessed", *(f"days on {count}" for count in gpus)]
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *(row(path, gpus) for path in config)]
    print("\n".join(f"| {' | '.join(line)} |" for line in lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
