"""Every notebook runs on a learner's own data: five made sets, with tiny lengths.

The code cells run in this process, without a kernel: parameters are set as papermill sets them, moving pictures have two.
"""

import ast
import re

import matplotlib.pyplot as plt
import numpy as np
import pytest

from course import machine
from lt_utils import models, viz
from lt_utils.diffusion import image_diffusion
from lt_utils.errors import CourseError
from lt_utils.models.unet import UNet
from lt_utils.runs.parameters import check, code_cells, declared, notebook_path, notebooks_folder, notes
from lt_utils.viz import animation

NOTEBOOKS = sorted(path.stem for path in notebooks_folder().glob("*.ipynb"))
FEATURES = dict(ENCODER_EPOCHS=1, GENERATOR_WIDTH=16, GENERATOR_BLOCKS=1, STEPS=3)
TINY = {  # what would take time
    "02": dict(PIXELS=7, COMPONENTS=8, ORDERS=3, NETWORK_ORDERS=1, WIDTH=4, EPOCHS=1, RUNS=2),
    "03": dict(WIDTH=4, WATCHED=1, EPOCHS=1, WCDAS_EPOCHS=1, RUNS=2),
    "04": dict(WIDTH=8, BATCH=16, STEPS=4, JUDGE_EPOCHS=1, SAMPLE_STEPS=2, PER_CLASS=2),
    "05": dict(STEPS=3, TRAIN_STEPS=1, JUDGE_EPOCHS=1, SAMPLES=2, STEPS_TRIED=[2, 3], OMEGAS_TRIED=[0.0, 1.0]),
    "06": dict(TRAIN_STEPS=2, BATCH=8, PER_CLASS=3, SAMPLE_STEPS=2, JUDGE_EPOCHS=1, FILL=20, OMEGAS=[1.0])
    | dict(ARMS=[["regular", 2, 8], ["balanced-finetuned", 1, 8]]),
    "07": FEATURES | dict(SAMPLING_STEPS=3, PER_CLASS=10),
    "08": FEATURES | dict(EPOCHS=1, SAMPLING_STEPS=2, GENERATED=10, FIT_STEPS=3, RUNS=2),
    "09": FEATURES | dict(CALLS=10, MOST=10, PICTURES=2, PUSHED=2, SWEEP=[500], FIT_STEPS=3, RUNS=2),
    "10": dict(WIDTH=4, HEAD_EPOCHS=1, MOCO_EPOCHS=1, QUEUE=64, EPOCHS=1, SSP_EPOCHS=1, RUNS=2),
    "11": dict(
        WIDTH=16, DEPTH=1, HEADS=2, DECODER=[16, 1], MAE_STEPS=3, STEPS=3, RUNS=2, STARTS=["scratch", "LT", "balanced"]
    ),
    "12": dict(EPOCHS=1, RUNS=2),
    "A1": dict(SAMPLE_STEPS=2, DRAWS=2, PUSHES=2, JUDGE_EPOCHS=1, PER_CLASS=4),
    "A2": dict(STEPS=3),
}


def made(counts: list[int], tested: list[int], size: int, channels: int, names: list[str]) -> dict[str, np.ndarray]:
    """A prepared set: for each class a random pattern of squares, under noise."""
    random = np.random.RandomState(0)
    pattern = random.rand(len(counts), -(-size // 4), -(-size // 4), channels)
    arrays = {"classes": np.array(names)}
    for part, amounts in (("train", counts), ("test", tested)):
        labels = random.permutation(np.repeat(np.arange(len(counts)), amounts))
        images = pattern[labels].repeat(4, 1).repeat(4, 2)[:, :size, :size]
        arrays[f"x_{part}"] = (120 * images + 130 * random.rand(*images.shape)).astype(np.uint8)
        arrays[f"y_{part}"] = labels
    return arrays


class Narrow(UNet):
    """A U-Net of eight channels, whatever is asked for."""

    def __init__(self, channels: int, num_classes: int, width: int = 8, *args, **options) -> None:
        super().__init__(channels, num_classes, 8, *args, **options)


Narrow.__name__ = "UNet"  # for the files that it is written to


def two_pictures(figure, draw, values, *, still=-1, **how):
    """In the place of `moving`: its last picture and its still, drawn and not shown."""
    values = list(values)
    for value in (values[-1], values[still]):
        draw(value)
    plt.close(figure)


def run(notebook: str, given: dict[str, object]) -> None:
    """Execute the code cells of a notebook, with `given` in the place of its parameters."""
    path = notebook_path(notebook)
    check(given, declared(path), notebook, notes(path))
    names = {"__name__": "__main__"}
    for number, cell in enumerate(code_cells(path), start=1):
        tree = ast.parse(cell["source"])
        exec(compile(tree, f"{notebook}, code cell {number}", "exec"), names)
        if "parameters" in cell["tags"]:
            names |= given
        plt.close("all")


@pytest.fixture(scope="class", autouse=True)
def data(request, tmp_path_factory):
    """The set of a class, prepared under the name "mine", and what would take time replaced."""
    folder = tmp_path_factory.mktemp("own-data")
    np.savez(folder / "mine.npz", **made(**request.cls.SET))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LT_DATA", str(folder))
        plt.switch_backend("Agg")
        patch.setattr(plt, "show", lambda: None)
        patch.setattr(viz, "moving", two_pictures)
        patch.setattr(animation, "moving", two_pictures)
        patch.setattr(machine, "training_speed", lambda *network: 1.0)
        yield


class OwnData:
    """One made set. A class each, because `--dist loadscope` gives whole classes to the workers."""

    IMBALANCE = 8
    MORE: dict[str, dict] = {}  # notebook -> parameters beside the tiny ones
    REFUSED: dict[str, str] = {}  # notebook -> the sentence, for what it cannot take

    @pytest.mark.parametrize("notebook", NOTEBOOKS)
    def test_runs(self, notebook, tmp_path, monkeypatch):
        monkeypatch.setenv("LT_RUNS", str(tmp_path))
        if notebook[:2] != "A2":  # which counts the parameters of published networks
            for place in (models, image_diffusion):
                monkeypatch.setattr(place, "UNet", Narrow)
        given = {"DATASET": "mine", "IMBALANCE": self.IMBALANCE} | TINY.get(notebook[:2], {})
        given |= self.MORE.get(notebook[:2], {})
        if sentence := self.REFUSED.get(notebook[:2]):
            with pytest.raises(CourseError, match=re.escape(sentence)):
                run(notebook, given)
            assert not list(tmp_path.rglob("checkpoints")), "it was refused after a training"
        else:
            run(notebook, given)
            assert list(tmp_path.rglob("record.json"))


class TestTwoClasses(OwnData):
    SET = dict(counts=[60, 60], tested=[20, 20], size=28, channels=1, names=["no", "yes"])
    IMBALANCE = 4
    REFUSED = {"02": "take a DATASET of three or more"}


class TestNaturalTail(OwnData):
    SET = dict(counts=[36, 160, 32, 96, 48], tested=[9, 40, 8, 24, 12], size=28, channels=3, names=list("abcde"))
    IMBALANCE = 0
    MORE = {"06": dict(CLASSIFIER_EPOCHS=1, FILL=50)}


class TestTwelveSmallClasses(OwnData):
    SET = dict(counts=[30] * 12, tested=[8] * 12, size=32, channels=3, names=[f"kind {k}" for k in range(12)])
    IMBALANCE = 5
    REFUSED = {"11": "set PATCH"}


class TestUnicodeNames(OwnData):
    SET = dict(
        counts=[80] * 4,
        tested=[12] * 4,
        size=28,
        channels=1,
        names=["Äpfel & Nüsse", "猫", "été_1 {x}", "50 % of $x_0$"],
    )


class TestGrey24(OwnData):
    SET = dict(counts=[110] * 5, tested=[12] * 5, size=24, channels=1, names=list("pqrst"))
    REFUSED = {"11": "set PATCH"}


class TestOddSize(OwnData):
    """Sides that no U-Net halves: said before any training, with the command that resizes."""

    SET = dict(counts=[80] * 3, tested=[12] * 3, size=30, channels=1, names=list("uvw"))
    REFUSED = dict.fromkeys(("04", "05", "06"), "--size 32 --again` makes them 32 x 32") | {"11": "set PATCH"}

    @pytest.mark.parametrize("notebook", [name for name in NOTEBOOKS if name[:2] in ("04", "05", "06", "11")])
    def test_runs(self, notebook, tmp_path, monkeypatch):
        super().test_runs(notebook, tmp_path, monkeypatch)
