"""Two processes train as one does, on the CPU. What they do is in functions of this module, which they import."""

import os
import signal
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from lt_utils.diffusion.generate import sample_to
from lt_utils.diffusion.losses import diffusion_loss
from lt_utils.diffusion.schedules import cosine_schedule
from lt_utils.errors import CourseError
from lt_utils.features.views import encode_fast
from lt_utils.models.mae import MaskedAutoencoder
from lt_utils.models.resnet import ResNet, encode
from lt_utils.models.unet import UNet
from lt_utils.models.vit import ViT
from lt_utils.recognition.losses import build_loss
from lt_utils.recognition.mixing import mixup, mixup_loss
from lt_utils.recognition.self_supervised import MoCo
from lt_utils.training import checkpoints, devices, launch, ranks
from lt_utils.training.ema import EMA
from lt_utils.training.launch import on_ranks, run_on_ranks
from lt_utils.training.loop import train

N, BATCH, STEPS = 18, 17, 8  # so that every second batch is of one image, which two processes cannot divide
COUNTS = [9, 4, 2, 2, 1]
GREY = dict(mean=(0.5,), std=(0.5,))
SMALL = dict(channels=1, size=8, patch=4, width=16, depth=2, heads=2, **GREY)
SCHEDULE = cosine_schedule(50)


def images():
    return torch.rand(N, 1, 8, 8, generator=torch.Generator().manual_seed(1))


LABELS = torch.repeat_interleave(torch.arange(5), torch.tensor(COUNTS))


def weighted(model, index):
    """Mixed images, and a loss that is no mean over images: its weights are divided by their sum in the batch."""
    mixed, partner, weight = mixup(images()[index].to(next(model.parameters()).dtype))
    return mixup_loss(model(mixed), LABELS[index], partner, weight, build_loss("cb-ce", COUNTS))


def plain(model, index):
    return F.cross_entropy(model(images()[index]), LABELS[index])


def denoising(model, index):
    return diffusion_loss(model, SCHEDULE, images()[index], LABELS[index])


def masked(model, index):
    return model.loss(images()[index], 0.5)


def contrast(model, index):
    return model(images()[index], images()[index].flip(3))


def encoder(**options):
    return ResNet(5, 1, 8, 4, **GREY, **options)


TRAININGS = {
    "encoder": (lambda: encoder().double(), weighted),
    "u-net": (lambda: UNet(1, 5, 8, (1, 2), blocks=1), denoising),
    "u-net with dropout": (lambda: UNet(1, 5, 8, (1, 2), blocks=1, dropout=0.3), denoising),
    "vit": (lambda: ViT(5, **SMALL), plain),
    "vit with stochastic depth": (lambda: ViT(5, **SMALL, drop_path=0.5), plain),
    "masked autoencoder": (lambda: MaskedAutoencoder(16, 1, 2, **SMALL), masked),
    "moco": (lambda: MoCo(encoder(), 8, 12), contrast),
}


def training(name, checkpoint=None, **options):
    """The trained network, its average, and a generator of its steps."""
    make, loss = TRAININGS[name]
    torch.manual_seed(0)
    model = make().to(memory_format=torch.channels_last)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer, average = torch.optim.SGD(weights, 0.05, momentum=0.9), EMA(model, 0.9)
    how = dict(n=N, steps=STEPS, batch_size=BATCH, optimizer=optimizer, ema=average, precision="fp32", grad_clip=1.0)
    return model, average.model, train(model, options.pop("loss", loss), checkpoint=checkpoint, **how | options)


def state(model, average, losses):
    return {"losses": losses, **model.state_dict(), **{f"average {k}": v for k, v in average.state_dict().items()}}


def result(name, checkpoint=None, stop=None, **options):
    model, average, steps = training(name, checkpoint, **options)
    for step in steps:
        if step.step == stop:
            steps.close()  # which saves
            break
    return state(model, average, step.losses)


def in_halves(name):
    """One process whose network takes each batch in two halves."""
    model, average, steps = training(name)
    whole = model.forward

    def forward(*inputs):
        if len(inputs[0]) == 1:
            return whole(*inputs)
        cut = len(inputs[0]) // 2
        parts = [whole(*(x[rows] for x in inputs)) for rows in (slice(0, cut), slice(cut, None))]
        return torch.cat(parts)

    model.forward = forward
    *_, step = steps
    del model.forward
    return state(model, average, step.losses)


def stopped_by_one(folder):
    """Ctrl-C reaches the last process alone, within its third step; the step after which each stops."""
    rank, count = ranks.place()

    def loss(model, index):
        if torch.initial_seed() == 2 and rank == count - 1:
            os.kill(os.getpid(), signal.SIGINT)
        return plain(model, index)

    path = folder / f"stopped-{count}.safetensors"
    try:
        for _ in training("vit", path, loss=loss)[2]:
            pass
    except KeyboardInterrupt as error:
        return str(error), checkpoints.load(path)[1]["step"]


def everything(folder):
    """Called by two processes and, after that, by this one: each leaves what it got."""
    rank, count = ranks.place()
    got = {name: result(name) for name in TRAININGS}
    pictures = (images() * 255).byte()
    torch.manual_seed(0)
    model, denoiser = encoder().eval(), UNet(1, 5, 8, (1, 2), blocks=1)
    got["features"] = encode(model, pictures, batch_size=4)
    got["fast features"] = encode_fast(model, pictures, batch_size=100)  # one part: the second process has none
    got["samples"] = sample_to(folder / f"s{count}", denoiser, SCHEDULE, LABELS, (1, 8, 8), shard=4, steps=3, eta=1.0)
    got["stopped"] = stopped_by_one(folder)
    result("encoder", folder / "whole.safetensors") if count > 1 else None
    result("encoder", folder / "again.safetensors", stop=3) if count > 1 else None
    result("encoder", folder / "again.safetensors") if count > 1 else None
    result("encoder", folder / "changing.safetensors", stop=3) if count > 1 else None
    torch.save(got, folder / f"{count}-{rank}.pt")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where two processes, and one, have done `everything`."""
    threads, folder = torch.get_num_threads(), tmp_path_factory.mktemp("ranks")
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        run_on_ranks(2, everything, folder)
        yield folder
    torch.set_num_threads(threads)


def got(folder, count, rank):
    return torch.load(folder / f"{count}-{rank}.pt", weights_only=False)


def furthest(one, other):
    assert one.keys() == other.keys()
    return max(float((one[name].double() - other[name].double()).abs().max()) for name in one)


# In float64 the two differ by rounding alone; a sum of float32 in another order by 1e-7, which a training carries on.
@pytest.mark.parametrize("name", TRAININGS)
def test_two_processes_train_what_one_does(folder, name):
    one, two, other = (got(folder, *which)[name] for which in ((1, 0), (2, 0), (2, 1)))
    assert furthest(one, two) < (1e-13 if name == "encoder" else 2e-6)
    assert furthest(two, other) == 0  # to the last bit
    assert one["losses"][0] != one["losses"][2]


@pytest.mark.parametrize("name", ["u-net", "vit"])
def test_they_are_to_the_last_bit_one_process_that_takes_the_batch_in_two_halves(folder, name):
    assert furthest(in_halves(name), got(folder, 2, 0)[name]) == 0


def test_features_and_samples_are_the_same_to_the_last_bit(folder):
    one, two, other = (got(folder, *which) for which in ((1, 0), (2, 0), (2, 1)))
    for name in ("features", "fast features", "samples"):
        for mine, theirs, again in zip(*(which[name] for which in (one, two, other)), strict=True):
            assert torch.equal(mine, theirs) and torch.equal(mine, again)
    assert len(list((folder / "s2").glob("*.safetensors"))) == 5


def test_ctrl_c_in_one_process_stops_all_after_the_same_step(folder):
    stopped = [got(folder, *which)["stopped"] for which in ((1, 0), (2, 0), (2, 1))]
    assert stopped == [(f"stopped after step 3 of {STEPS}; run again to go on from here", 3)] * 3


def going_on(folder, step):
    """Trains to the end what one process has left; then the second process is killed within a step; after each all is saved."""
    result("encoder", folder / "changing.safetensors")

    def loss(model, index):
        if torch.initial_seed() == step - 1 and ranks.place() == (1, 2):
            os.kill(os.getpid(), signal.SIGKILL)
        return weighted(model, index)

    return result("encoder", folder / "dying.safetensors", loss=loss, save_every=0.0)


def test_two_processes_go_on_to_the_same_bits_and_one_goes_on_from_two_and_two_from_one_and_none_loses_by_a_kill(
    folder,
):
    whole, again = (checkpoints.load(folder / f"{name}.safetensors")[0] for name in ("whole", "again"))
    assert furthest(whole, again) == 0
    changing, dying = folder / "changing.safetensors", folder / "dying.safetensors"
    assert checkpoints.load(changing)[1]["step"] == 3
    result("encoder", changing, stop=5)
    assert checkpoints.load(changing)[1]["step"] == 5
    sentence = r"The 2 processes have ended early: one was killed \(signal 9: .*\)\. Run it again: it goes on from what"
    with pytest.raises(CourseError, match=sentence):
        run_on_ranks(2, going_on, folder, 5)
    assert (checkpoints.load(changing)[1]["step"], checkpoints.load(dying)[1]["step"]) == (STEPS, 4)
    result("encoder", dying)
    assert furthest(whole, checkpoints.load(changing)[0]) < 1e-13
    assert furthest(whole, checkpoints.load(dying)[0]) < 1e-13


def refusing(checkpoint):
    raise CourseError(f"There is no such thing, said process {os.environ['RANK']}.")


def test_what_a_process_refuses_is_told(folder):
    with pytest.raises(CourseError, match="have ended early: There is no such thing, said process 0"):
        run_on_ranks(1, refusing, None)


def test_what_others_cannot_import_is_refused_before_they_are_started(monkeypatch):
    monkeypatch.setattr(launch, "_torchrun", None)
    with pytest.raises(CourseError, match="cannot import .*lambda"):
        run_on_ranks(2, lambda: 1)
    with pytest.raises(CourseError, match="cannot import .*result"):
        run_on_ranks(2, result, lambda: 1)


@on_ranks
def asked(name, checkpoint=None):
    return name, checkpoint


@pytest.mark.parametrize(
    ("environment", "count"),
    [({}, None), ({"LT_RANKS": "1"}, None), ({"LT_RANKS": "3"}, 3), ({"LT_RANKS": "3", "WORLD_SIZE": "3"}, None)],
)
def test_lt_ranks_starts_so_many_processes_with_a_checkpoint_for_the_time_being(monkeypatch, environment, count):
    started = []
    monkeypatch.setattr(launch, "_torchrun", lambda count, job: started.append(count))
    for name in ("LT_RANKS", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(launch.torch, "save", lambda job, path: started.append(job[:2]))
    name, checkpoint = asked("a")
    assert name == "a" and (checkpoint is None) == (count is None)
    assert started == ([] if count is None else [(asked, ("a", checkpoint)), count])
    assert asked("a", "mine") == ("a", "mine")


@pytest.mark.parametrize("word", ["two", "0", "-1"])
def test_a_number_of_processes_that_is_none_is_refused(monkeypatch, word):
    monkeypatch.setenv("LT_RANKS", word)
    with pytest.raises(CourseError, match="LT_RANKS"):
        asked("a")


def test_processes_that_begin_differently_are_refused(monkeypatch):
    model = encoder()
    monkeypatch.setattr(ranks, "place", lambda: (0, 2))
    for others in (0, 1):
        monkeypatch.setattr(ranks, "every", lambda mine, others=others: [mine, (mine[0], others)])
        if others:
            with pytest.raises(CourseError, match="do not begin with the same weights"):
                ranks.check_same(model, 0)
        else:
            ranks.check_same(model, 0)


def test_each_process_takes_an_accelerator_of_its_own_and_more_than_there_are_is_refused(monkeypatch):
    taken, fake = [], torch.device("cuda")
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: fake)
    monkeypatch.setattr(torch.accelerator, "set_device_index", taken.append)
    assert devices.device() == fake and taken == []
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert devices.device() == fake and taken == [1]
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    with pytest.raises(CourseError, match="3 processes need as many accelerators"):
        devices.device()
