"""Several encoders as one batched network become what each becomes by itself. In float64, where rounding hides nothing."""

import pytest
import torch

from lt_utils.data.datasets import ImageData
from lt_utils.errors import CourseError
from lt_utils.recognition import encoders, together
from lt_utils.recognition.encoders import train_encoder
from lt_utils.recognition.together import Together, train_encoders
from lt_utils.training import checkpoints, loop

HOW = dict(epochs=3, batch_size=12, depth=8, width=4, lr=0.05)
SEEDS = [4, 0, 7]


@pytest.fixture(autouse=True)
def double(encoders_in_double, monkeypatch):
    """Encoders and images in float64, on the CPU."""
    for module in (encoders, together):
        monkeypatch.setattr(module, "device", lambda: torch.device("cpu"))


@pytest.fixture(scope="module")
def data():
    """40 noisy images of 8 x 8 pixels, 20, 12 and 8 of three classes: the last batch of an epoch is short."""
    labels = torch.repeat_interleave(torch.arange(3), torch.tensor([20, 12, 8]))
    noise = torch.randint(0, 100, (40, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    images = (noise + 50 * labels.view(-1, 1, 1, 1)).byte()
    return ImageData("three", images, labels, images, labels, ["a", "b", "c"])


def furthest(one, other):
    one, other = one.state_dict(), other.state_dict()
    assert one.keys() == other.keys()
    return max(float((one[name].double() - other[name].double()).abs().max()) for name in one)


# The cosine heads compute in float32.
@pytest.mark.parametrize(
    ("method", "tolerance"), [("ce-mixup", 1e-12), ("rs", 1e-12), ("drw", 1e-12), ("wcdas", 1e-5), ("ldam-drw", 1e-5)]
)
def test_each_becomes_what_it_becomes_alone(data, method, tolerance):
    several = train_encoders(data, method, seeds=SEEDS, **HOW)
    alone = [train_encoder(data, method, seed=seed, **HOW) for seed in SEEDS]
    for one, other in zip(several, alone, strict=True):
        assert not one.training and one.config == other.config
        assert furthest(one, other) < tolerance
    assert furthest(alone[0], alone[1]) > 0.1


def test_a_view_that_draws_for_each_image_is_each_seeds_own(data):
    several = train_encoders(data, "ce", seeds=[1, 2], augment="strong", **HOW)
    for seed, one in zip([1, 2], several, strict=True):
        assert furthest(one, train_encoder(data, "ce", seed=seed, augment="strong", **HOW)) < 1e-12


def test_a_stopped_training_of_several_goes_on_exactly(data, tmp_path, monkeypatch):
    path, train = tmp_path / "several.safetensors", loop.train

    def stopped(*arguments, **options):
        for step in train(*arguments, **options):
            yield step
            if step.step == 5:
                raise KeyboardInterrupt

    monkeypatch.setattr(loop, "train", stopped)
    with pytest.raises(KeyboardInterrupt):
        train_encoders(data, seeds=SEEDS, checkpoint=path, **HOW)
    assert checkpoints.load(path)[1]["step"] == 5
    monkeypatch.setattr(loop, "train", train)
    went_on = train_encoders(data, seeds=SEEDS, checkpoint=path, **HOW)
    for one, other in zip(went_on, train_encoders(data, seeds=SEEDS, **HOW), strict=True):
        assert furthest(one, other) == 0
    with pytest.raises(CourseError, match="another training"):
        train_encoders(data, seeds=[4, 0, 8], checkpoint=path, **HOW)


def test_the_parts_of_a_joint_network_are_the_networks_it_was_made_of(data):
    models = [encoders.build_encoder(data, seed=seed, width=4) for seed in SEEDS]
    joint = Together(models).eval()
    for one, other in zip(joint.split(), models, strict=True):
        assert furthest(one, other) == 0
    images = torch.rand(5, 3, 1, 8, 8, dtype=torch.float64)
    for number, logits in enumerate(joint(images).unbind(1)):
        assert torch.allclose(logits, models[number].eval()(images[:, number]), atol=1e-12)


def test_compiled_it_is_the_same_training(data, monkeypatch):
    asked, compile = [], torch.compile

    def traced(model, mode, **options):
        asked.append(mode)
        return compile(
            model, backend="eager", **options
        )  # torch's graph of it, run as it is: the rest needs a compiler

    monkeypatch.setattr(torch, "compile", traced)
    several = (train_encoders(data, seeds=SEEDS, compiled=compiled, **HOW) for compiled in (False, True))
    for one, other in zip(*several, strict=True):
        assert furthest(one, other) < 1e-12
    assert asked == ["default"]
    monkeypatch.setattr(encoders, "device", lambda: torch.device("cuda"))
    encoders.compiled_encoder(torch.nn.Linear(1, 1))
    assert asked == ["default", "reduce-overhead"]  # on a GPU as CUDA graphs


@pytest.mark.parametrize("seeds", [[], [1, 1]])
def test_no_seed_and_a_seed_twice_are_refused(data, seeds):
    with pytest.raises(CourseError, match="each once"):
        train_encoders(data, seeds=seeds, **HOW)
