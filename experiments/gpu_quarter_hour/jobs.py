"""The jobs, in order of worth, and what each of their parts does. A part is a process of its own."""

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from experiments.gpu_quarter_hour import speed
from lt_utils.data.datasets import ImageData
from lt_utils.diffusion.class_balancing import train_generator
from lt_utils.diffusion.generate import balanced_labels, sample_to
from lt_utils.diffusion.schedules import linear_schedule
from lt_utils.errors import CourseError
from lt_utils.metrics.extractors import encoder_extractor
from lt_utils.metrics.generation import measure_samples
from lt_utils.metrics.recognition import full_scores
from lt_utils.models.resnet import ResNet, encode
from lt_utils.models.unet import published_unet
from lt_utils.recognition.encoders import RECIPES, train_encoder
from lt_utils.recognition.losses import label_shift
from lt_utils.recognition.together import train_encoders
from lt_utils.recognition.two_stage import HEAD_RECIPE, finetune_head
from lt_utils.training.checkpoints import load_model, save_model
from lt_utils.training.devices import device
from lt_utils.training.lr_schedules import linear_warmup

# What a dry run replaces: the same code at a size that a CPU does in seconds.
TINY = dict(depth=8, width=4, epochs=2, batch_size=16)
OMEGA, PER_CLASS, SAMPLE_STEPS = 1.5, 20, 50


@dataclass(frozen=True)
class Part:
    """A part of a job: which data, which variant; "seed0-seed1" are seeds that are trained as one network.

    Its files are named after it.
    """

    job: str
    data: str
    variant: str

    @property
    def name(self) -> str:
        """<job>-<data set>-<variant>, for files."""
        return f"{self.job}-{self.data}-{self.variant}"

    @property
    def rows(self) -> list["Part"]:
        """What has a row of its own in the results: each seed, or the part itself."""
        return [Part(self.job, self.data, variant) for variant in self.variant.split("-")]


@dataclass(frozen=True)
class Context:
    """What a part works with: the unpacked data, its folder (checkpoints, weights), and whether this is a dry run."""

    data: ImageData
    folder: Path
    tiny: bool

    @property
    def compiled(self) -> bool:
        """On a GPU a small network waits for the launches of its kernels: graphs. A CPU needs none."""
        return device().type == "cuda"

    def checkpoint(self, part: Part) -> Path:
        """Where the training of a part goes on."""
        return self.folder / f"{part.name}.training"

    def weights(self, part: Part) -> Path:
        """Its finished network, small enough to be carried away."""
        return self.folder / f"{part.name}.safetensors"


def measured(model: ResNet, data: ImageData, shifted: bool) -> dict:
    """Full scores on the test set, plain, and with label shift if the training did not know the prior."""
    logits, labels = encode(model, data.test_images)[1].cpu(), data.test_labels.cpu()
    rows = {"plain": full_scores(logits, labels, data.counts)}
    if shifted:
        rows["label shift"] = full_scores(label_shift(logits, data.counts), labels, data.counts)
    # A group without classes has no number, and JSON no NaN.
    return {
        out: {name: None if math.isnan(value) else value for name, value in row.items()} for out, row in rows.items()
    }


def compiled_or_not(train: Callable, context: Context) -> tuple[Any, str]:
    """train(compiled=True) where there are CUDA graphs; should that fail, without, from its checkpoint. Also how it went."""
    if not context.compiled:
        return train(compiled=False), "eager"
    try:
        return train(compiled=True), "compiled"
    except CourseError:
        raise
    except Exception as error:  # whatever a compiler or a capture may raise
        print(f"Compiling failed, going on without: {type(error).__name__}: {error}", flush=True)
        return train(compiled=False), f"eager, for compiling failed: {type(error).__name__}: {error}"[:300]


def encoders(part: Part, context: Context, compiled: bool) -> list[ResNet]:
    """The encoders of a part, one for each of its seeds, by the recipe that the job is called after; several as one network."""
    recipe = RECIPES[part.job] | (TINY if context.tiny else {})
    recipe |= {"checkpoint": context.checkpoint(part), "compiled": compiled}
    seeds = [int(row.variant.removeprefix("seed")) for row in part.rows]
    if len(seeds) == 1:
        return [train_encoder(context.data, **recipe, seed=seeds[0])]
    return train_encoders(context.data, **recipe, seeds=seeds)


def encoder(part: Part, context: Context) -> Iterator[dict]:
    """Train one encoder, or those of several seeds; WCDAS with its second stage."""
    epochs, data = (TINY if context.tiny else RECIPES[part.job])["epochs"], context.data
    trained, way = compiled_or_not(functools.partial(encoders, part, context), context)
    each: dict[str, dict] = {}
    for row, model in zip(part.rows, trained, strict=True):
        seed = int(row.variant.removeprefix("seed"))
        first = {} if part.job != "wcdas" else {"first stage": measured(model, data, True)}
        if part.job == "wcdas":
            stage = HEAD_RECIPE | ({"epochs": 1, "batch_size": 16} if context.tiny else {})
            # Named after the part: trained alone or together, the first stage differs in its last digits.
            model = finetune_head(
                model, data, **stage, seed=seed, checkpoint=context.folder / f"{part.name}.head{seed}"
            )
        save_model(context.weights(row), model, recipe=part.job, data=data.key, seed=seed)
        each[row.variant] = {"scores": measured(model, data, part.job == "ce"), **first}
        complete = len(each) == len(trained)
        yield {"each": each, "epochs": epochs, "way": way, "complete": complete}


def generator(part: Part, context: Context) -> Iterator[dict]:
    """Train CBDM's network by one mechanism and measure samples by the features of the CE encoder of the same data."""
    data, size = context.data, "small" if context.tiny else "full"
    steps, per_class = (3, 2) if context.tiny else (3000, PER_CLASS)
    judge = context.weights(Part("ce", part.data, "seed0"))
    if not judge.exists():
        raise CourseError(
            f"Samples are measured by the encoder of the job ce, whose {judge.name} is missing: run that first."
        )
    schedule = linear_schedule()
    torch.manual_seed(0)
    train = functools.partial(
        train_generator,
        published_unet(data.num_classes, size, channels=data.channels),
        data,
        schedule,
        part.variant,
        steps=steps,
        batch_size=8 if context.tiny else 64,
        lr_schedule=linear_warmup(min(500, steps)),
        ema_decay=0.999,  # of so short a training
        checkpoint=context.checkpoint(part),
        save_every=120.0,  # half a gigabyte each time
        title=part.name,
    )
    model, way = compiled_or_not(train, context)
    yield {"steps": steps, "way": way, "complete": False}
    classes = balanced_labels(per_class * data.num_classes, data.num_classes)
    drawn, _ = sample_to(
        context.folder / f"{part.name}.samples",
        model,
        schedule,
        classes,
        tuple(data.train_images.shape[1:]),
        steps=3 if context.tiny else SAMPLE_STEPS,
        omega=OMEGA,
        clip=1.0,
        objective="eps",
        precision="auto",
        title=f"{part.name}, samples",
    )
    extract = encoder_extractor(load_model(judge, ResNet, device())[0], "CE on the long tail")
    encoded = [
        (extract(x)[0], y.cpu())
        for x, y in ((data.test_images, data.test_labels), (data.train_images, data.train_labels))
    ]
    probabilities = extract(drawn)[1]
    known = dict(real=encoded[0], training=encoded[1], fresh=encoded[0], prd_runs=2)
    rows = measure_samples(extract, probabilities, drawn, classes, data.counts, **known)
    note = "measured by an encoder trained on the same long tail: compare the two mechanisms, not with other results"
    yield {
        "steps": steps,
        "way": way,
        "samples": len(classes),
        "omega": OMEGA,
        "measures": rows,
        "note": note,
        "complete": True,
    }


@dataclass(frozen=True)
class Job:
    """A job: seconds it may take at most, what a part of it does, and its parts for the names of the data sets.

    side: how many parts run at a time. speed_of: the network of the job speed whose rows say how its seeds are trained
    (ways.py); "": each apart.
    """

    seconds: float
    run: Callable[[Part, Context], Iterator[dict]]
    variants: tuple[str, ...]
    first_only: bool = False  # for the first data set only
    side: int = 3
    speed_of: str = ""

    def parts(self, name: str, data: list[str], together: bool = False) -> list[Part]:
        """Its parts, the first variant of all data sets first; together: one for each data set, with all variants."""
        variants = ["-".join(self.variants)] if together else self.variants
        return [Part(name, one, variant) for variant in variants for one in (data[:1] if self.first_only else data)]


def measure_speed(part: Part, context: Context) -> Iterator[dict]:
    """Images per second of one network in every way to run it."""
    yield from speed.rows(part.variant, context.data, context.tiny)


def measure_side(part: Part, context: Context) -> Iterator[dict]:
    """Images per second of one of the processes that train a ResNet-32 each at the same time."""
    way = speed.BEST if context.compiled else "eager"
    data = context.data.to(device())
    yield {"rows": [speed.measure("resnet32", way, data, context.tiny, lasting=3 * speed.MEASURED)], "complete": True}


SEEDS = tuple(f"seed{seed}" for seed in range(speed.SEEDS))
JOBS = {
    "speed": Job(210, measure_speed, tuple(speed.NETWORKS), first_only=True, side=1),
    "side": Job(60, measure_side, SEEDS, first_only=True),
    "ce": Job(420, encoder, SEEDS, speed_of="resnet32"),
    "strong": Job(300, encoder, SEEDS[:1], side=2),
    "wcdas": Job(300, encoder, SEEDS, side=2, speed_of="wcdas"),
    "cbdm": Job(240, generator, ("regular", "balanced"), first_only=True, side=1),
}
