"""The training loop: the same weights to the last bit however it was interrupted, and nothing lost when it goes wrong."""

import errno
import math
import os
import signal
import threading
import warnings
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lt_utils.errors import CourseError
from lt_utils.training import checkpoints, devices, loop, lr_schedules
from lt_utils.training.devices import autocast, precision_for
from lt_utils.training.ema import EMA
from lt_utils.training.loop import FinishStep, Step, batch_of, images_after, steps_per_epoch, train

N, STEPS, BATCH = 10, 7, 4  # three steps per epoch, the last of them of two samples
DATA = torch.randn(N, 3, 6, 6, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(N) % 3


class Net(nn.Module):
    """Convolution, batch normalisation, dropout and a scalar parameter, in channels-last: all that resuming must respect."""

    def __init__(self, classes=3, width=8):
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3)
        self.norm = nn.BatchNorm2d(width)
        self.drop = nn.Dropout(0.3)
        self.head = nn.Linear(width, classes)
        self.scale = nn.Parameter(torch.tensor(1.5))

    def forward(self, x):
        return self.scale * self.head(self.drop(F.relu(self.norm(self.conv(x)))).mean((2, 3)))


def net_loss(model, index):
    """Cross-entropy on noisy data: it draws at random, like augmentation."""
    return F.cross_entropy(model(DATA[index] + 0.1 * torch.randn(len(index), 3, 6, 6)), LABELS[index])


OPTIMISERS = {
    "sgd": lambda weights: torch.optim.SGD(weights, 0.1, momentum=0.9, weight_decay=5e-4, nesterov=True),
    "plain": lambda weights: torch.optim.SGD(weights, 0.1),
    "adam": lambda weights: torch.optim.Adam(weights, 0.01),
    "adamw": lambda weights: torch.optim.AdamW(weights, 0.01, amsgrad=True),
}


class Training:
    """A model with all that belongs to its training; `.go()` trains, `.state()` is everything a resumed run must equal."""

    def __init__(self, optimizer="sgd", model=None, weights=0, **options):
        torch.manual_seed(weights)
        self.model = (model or Net()).to(memory_format=torch.channels_last)
        self.optimizer = OPTIMISERS[optimizer](self.model.parameters())
        self.ema = EMA(self.model, 0.9)
        self.loss = options.pop("loss", net_loss)
        settings = dict(
            n=N,
            steps=STEPS,
            batch_size=BATCH,
            lr_schedule=lr_schedules.cosine,
            ema=self.ema,
            precision="fp32",
            grad_clip=1.0,
        )
        self.options = settings | options
        self.last = None

    def loop(self):
        return train(self.model, self.loss, optimizer=self.optimizer, **self.options)

    def go(self, stop=None):
        for step in self.loop():
            self.last = step
            if step.step == stop:
                break
        return self

    def state(self):
        parts = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        parts |= {f"ema.{name}": value for name, value in self.ema.model.state_dict().items()}
        for number, entries in self.optimizer.state_dict()["state"].items():
            parts |= {f"optimizer.{number}.{name}": torch.as_tensor(value) for name, value in entries.items()}
        return parts | {"losses": self.last.losses, "lr": torch.tensor(self.last.lr)}


def same(first, second):
    first, second = first.state(), second.state()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net.safetensors"


@pytest.fixture
def ctrl_c():
    """A function that sends SIGINT to this process from another thread and returns when it has arrived."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def press():
        sender = threading.Thread(target=os.kill, args=(os.getpid(), signal.SIGINT))
        sender.start()
        sender.join()
        for _ in range(100):  # the handler runs in this thread, between two of its instructions
            pass

    yield press
    signal.signal(signal.SIGINT, before)


# -------------------------------------------------------------------------------------------------------- repeatability
def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not():
    first, again, other = Training().go(), Training().go(), Training(seed=1).go()
    assert same(first, again) and not torch.equal(first.state()["losses"], other.state()["losses"])
    assert first.state()["losses"].isfinite().all() and len(first.state()["losses"]) == STEPS


def test_what_the_caller_draws_changes_nothing():
    disturbed = Training()
    for step in disturbed.loop():
        disturbed.last = step
        torch.rand(7)
        torch.manual_seed(5)
    assert same(disturbed, Training().go())


def test_each_step_draws_as_after_manual_seed_without_asking_other_devices(monkeypatch):
    drawn, model = [], Net()

    def loss(model, index):
        drawn.append(torch.rand(3))
        return net_loss(model, index)

    asked = []
    monkeypatch.setattr(torch, "manual_seed", lambda seed: asked.append(seed))
    list(
        train(
            model, loss, n=N, steps=STEPS, batch_size=BATCH, optimizer=OPTIMISERS["plain"](model.parameters()), seed=5
        )
    )
    monkeypatch.undo()
    assert not asked
    for k, values in enumerate(drawn):
        torch.manual_seed(loop.step_seed(5, k))
        assert torch.equal(values, torch.rand(3))


def test_a_checkpoint_changes_nothing(path):
    assert same(Training(checkpoint=path, save_every=0).go(), Training().go())


@pytest.mark.parametrize("optimizer", OPTIMISERS)
@pytest.mark.parametrize("stop", range(1, STEPS))
def test_resuming_after_a_break_at_any_step_is_exact(optimizer, stop, path):
    Training(optimizer, checkpoint=path).go(stop)
    resumed = Training(optimizer, checkpoint=path, weights=99).go()
    assert same(resumed, Training(optimizer).go())


def test_resuming_after_every_step_is_exact(path):
    for stop in range(1, STEPS):
        Training(checkpoint=path, weights=stop - 1).go(stop)
        assert checkpoints.load(path)[1]["step"] == stop
    assert same(Training(checkpoint=path).go(), Training().go())


def test_resuming_is_exact_in_bf16_and_without_average(path):
    def whole(**options):
        return Training(precision="bf16", ema=None, grad_clip=None, **options)

    whole(checkpoint=path).go(4)
    resumed, straight = whole(checkpoint=path, weights=9).go(), whole().go()
    resumed.ema = straight.ema = EMA(Net())
    assert same(resumed, straight)


def test_momentum_comes_back_in_the_memory_format_of_its_weight(path):
    Training(checkpoint=path).go(3)
    resumed = Training(checkpoint=path).go(4)
    weight = resumed.model.conv.weight
    assert weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()
    assert resumed.optimizer.state[weight]["momentum_buffer"].stride() == weight.stride()


# ----------------------------------------------------------------------------------------------------------- interrupts
@pytest.mark.parametrize("stop", [1, 3, STEPS - 1])
def test_ctrl_c_in_the_middle_of_a_step_finishes_it_and_resumes_exactly(stop, path, ctrl_c):
    calls = []

    def loss(model, index):
        value = net_loss(model, index)
        calls.append(1)
        if len(calls) == stop:
            ctrl_c()
        return value

    interrupted = Training(loss=loss, checkpoint=path)
    with pytest.raises(KeyboardInterrupt, match=f"stopped after step {stop} of {STEPS}; run again to go on"):
        interrupted.go()
    assert checkpoints.load(path)[1]["step"] == len(calls) == stop
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert same(Training(checkpoint=path, weights=9).go(), Training().go())


def test_ctrl_c_between_two_steps_is_saved_too(path, ctrl_c):
    interrupted = Training(checkpoint=path)
    with pytest.raises(KeyboardInterrupt):
        for step in interrupted.loop():
            if step.step == 3:
                ctrl_c()
    assert checkpoints.load(path)[1]["step"] == 3
    assert same(Training(checkpoint=path, weights=9).go(), Training().go())


def test_the_same_objects_go_on_after_ctrl_c_with_the_right_rate(path, ctrl_c):
    interrupted = Training(checkpoint=path)
    rates = []
    with pytest.raises(KeyboardInterrupt):
        for step in interrupted.loop():
            rates.append(step.lr)
            if step.step == 3:
                ctrl_c()
    for step in interrupted.loop():  # a learner runs the cell of the loop again, not that of the optimiser
        interrupted.last = step
        rates.append(step.lr)
    assert rates == [0.1 * lr_schedules.cosine(k, STEPS) for k in range(STEPS)]
    assert same(interrupted, Training().go())


def test_a_second_ctrl_c_stops_at_once(ctrl_c):
    done = []

    def loss(model, index):
        ctrl_c()
        done.append("first")
        ctrl_c()
        done.append("second")
        return net_loss(model, index)

    with pytest.raises(KeyboardInterrupt, match="in the middle of a step"):
        Training(loss=loss).go()
    assert done == ["first"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_error_in_the_loop_keeps_the_step_and_an_error_in_a_step_the_last_save(path):
    with pytest.raises(ZeroDivisionError):
        for step in Training(checkpoint=path).loop():
            step.step // (step.step - 4)
    assert checkpoints.load(path)[1]["step"] == 4

    def loss(model, index, calls=[]):  # noqa: B006
        calls.append(1)
        return net_loss(model, index) if len(calls) < 3 else 1 / 0

    with pytest.raises(ZeroDivisionError):
        Training(checkpoint=path, loss=loss, save_every=0).go()
    assert checkpoints.load(path)[1]["step"] == 6
    assert same(Training(checkpoint=path).go(), Training().go())


@pytest.mark.parametrize("handler", [signal.SIG_DFL, signal.SIG_IGN, lambda *_: None])
def test_the_handler_of_before_is_put_back(handler, ctrl_c):
    signal.signal(signal.SIGINT, handler)
    with FinishStep() as step:
        inside = signal.getsignal(signal.SIGINT)
        with FinishStep() as inner:
            ctrl_c()
        asked = inner.asked
        assert signal.getsignal(signal.SIGINT) == inside
    assert signal.getsignal(signal.SIGINT) == handler
    assert asked == (handler != signal.SIG_IGN) and not step.asked


def test_a_handler_that_python_did_not_set_is_left_alone(monkeypatch):
    monkeypatch.setattr(signal, "getsignal", lambda number: None)
    monkeypatch.setattr(signal, "signal", lambda *_: pytest.fail("the handler was changed"))
    with FinishStep() as step:
        pass
    assert not step.asked


def test_training_works_outside_of_the_main_thread():
    trained = Training()
    worker = threading.Thread(target=trained.go)
    worker.start()
    worker.join()
    assert same(trained, Training().go())


def test_a_forgotten_loop_does_not_write_over_a_newer_checkpoint(path):
    old = Training(checkpoint=path)
    forgotten = old.loop()
    next(forgotten)
    next(forgotten)
    Training(checkpoint=path).go()
    forgotten.close()
    assert checkpoints.load(path)[1]["step"] == STEPS
    # Nor while the newer one runs with the same model and has not saved yet.
    path.unlink()
    old = Training(checkpoint=path, seed=1)
    forgotten, newer = old.loop(), old.loop()
    next(forgotten)
    next(newer)
    forgotten.close()
    assert not path.exists()
    newer.close()
    assert checkpoints.load(path)[1]["step"] == 1


# ----------------------------------------------------------------------------------------------------------- checkpoints
def test_a_finished_checkpoint_yields_one_step_and_trains_nothing(path):
    finished = Training(checkpoint=path).go()
    loaded = Training(checkpoint=path, weights=9, loss=lambda *_: pytest.fail("trained again"))
    steps = list(loaded.loop())
    assert [step.step for step in steps] == [STEPS] and steps[0].images == finished.last.images
    assert steps[0].loss == finished.last.loss and torch.equal(steps[0].losses, finished.last.losses)
    loaded.last, finished.last = steps[0], steps[0]
    assert same(loaded, finished)


class Other(Net):
    pass


class Deeper(Net):
    def __init__(self):
        super().__init__()
        self.more = nn.Linear(3, 3)


Deeper.__name__ = "Net"


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(seed=1), "seed 0 instead of 1"),
        (dict(n=9), "n 10 instead of 9"),
        (dict(steps=8), "steps 7 instead of 8"),
        (dict(batch_size=5), "batch_size 4 instead of 5"),
        (dict(lr_schedule=lr_schedules.constant), "lr_schedule 'cosine' instead of 'constant'"),
        (dict(grad_clip=None), "grad_clip 1.0 instead of None"),
        (dict(ema=None), "ema_decay 0.9 instead of None"),
        (dict(optimizer="plain"), r"decay \[0.0005\] instead of \[0\]"),
        (dict(optimizer="adam"), r"optimizer 'SGD' instead of 'Adam', lr \[0.1\] instead of \[0.01\]"),
        (dict(model=Other()), "model 'Net' instead of 'Other'"),
        (dict(model=Net(classes=4)), r"'head.bias' is \[3\] there and \[4\] here.*number of classes"),
        (dict(model=Net(width=9)), "another architecture or"),
        (dict(model=Deeper()), "of another architecture than this Net: it has no entry 'more.bias'"),
    ],
)
def test_a_checkpoint_of_another_training_is_refused_and_nothing_is_lost(change, message, path):
    Training(checkpoint=path).go(3)
    content = path.read_bytes()
    other = Training(checkpoint=path, **change)
    before = {name: value.clone() for name, value in other.model.state_dict().items()}
    with pytest.raises(CourseError, match=message) as error:
        other.go()
    assert "\n" not in str(error.value) and path.read_bytes() == content
    assert all(torch.equal(value, before[name]) for name, value in other.model.state_dict().items())
    assert same(Training(checkpoint=path).go(), Training().go())


def plain(**options):
    return lambda parameters: torch.optim.SGD(parameters, 0.1, **{"momentum": 0.9, "weight_decay": 5e-4} | options)


@pytest.mark.parametrize("stop", [3, None])
@pytest.mark.parametrize(
    "change, message",
    [
        (dict(make=plain(momentum=0.5)), "options of the optimiser .*'momentum': 0.9.* instead of .*'momentum': 0.5"),
        (dict(make=plain(nesterov=True)), "'nesterov': True"),
        (dict(precision="bf16"), "precision 'fp32' instead of 'bf16'"),
        (dict(lr_schedule=partial(lr_schedules.warmup_cosine, share=0.5)), "values of lr_schedule"),
    ],
)
def test_a_training_with_another_option_is_never_taken_for_the_old_one(change, message, stop, path, monkeypatch):
    """Half done or finished: an edit of what decides the result is told."""
    monkeypatch.setitem(OPTIMISERS, "made", plain())
    same = dict(lr_schedule=partial(lr_schedules.warmup_cosine, share=0.2), optimizer="made", checkpoint=path)
    Training(**same).go(stop)
    monkeypatch.setitem(OPTIMISERS, "made", change.get("make", plain()))
    options = {name: value for name, value in change.items() if name != "make"}
    with pytest.raises(CourseError, match=message):
        Training(**same | options).go()


def cell(tmp_path, number, text):
    """A function `loss` as a notebook's cell defines it: its module is __main__ and its source can be read."""
    file = tmp_path / f"cell{number}.py"
    file.write_text(text)
    names = {"__name__": "__main__", "net_loss": net_loss, "share": 0.5}
    exec(compile(text, file, "exec"), names)
    return names["loss"]


LOSS = "def weigh(x):\n    return share * x\ndef loss(model, index):\n    return weigh(net_loss(model, index))\n"


def test_a_loss_that_a_notebook_edits_is_another_training(path, tmp_path):
    Training(checkpoint=path, loss=cell(tmp_path, 0, LOSS)).go()
    again = LOSS.replace("(x):\n", "(x):\n    # only a comment\n\n")
    Training(checkpoint=path, loss=cell(tmp_path, 1, again)).go()
    edits = (LOSS.replace("weigh(net_loss", "2 * weigh(net_loss"), LOSS.replace("share * x", "share * x * x"))
    for number, edited in enumerate((*edits, "share = 0.3\n" + LOSS), start=2):
        with pytest.raises(CourseError, match=r"code of the loss '.*' instead of '.*'\): delete it to train anew"):
            Training(checkpoint=path, loss=cell(tmp_path, number, edited)).go()


def test_a_truncated_checkpoint_is_refused(path):
    Training(checkpoint=path).go(3)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(CourseError, match="not a readable checkpoint"):
        Training(checkpoint=path).go()


def fill_the_disk(monkeypatch):
    def full(tensors, target, metadata):
        target.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoints, "save_file", full)


def test_a_full_disk_leaves_the_last_good_checkpoint(path, monkeypatch):
    Training(checkpoint=path).go(3)
    content = path.read_bytes()
    with monkeypatch.context() as patch:
        fill_the_disk(patch)
        with pytest.raises(CourseError, match="No space left.*last complete one is still there"):
            Training(checkpoint=path).go()
    assert path.read_bytes() == content
    assert same(Training(checkpoint=path).go(), Training().go())


def test_a_full_disk_at_a_break_is_one_printed_sentence(path, monkeypatch, capsys):
    fill_the_disk(monkeypatch)
    with warnings.catch_warnings():
        warnings.simplefilter("error", pytest.PytestUnraisableExceptionWarning)
        Training(checkpoint=path).go(3)
    told = capsys.readouterr()
    assert told.out.count("\n") == 1 and "No space left" in told.out and not told.err


def nan_from(step):
    def loss(model, index, calls=[0]):  # noqa: B006
        calls[0] += 1
        return net_loss(model, index) * (math.nan if calls[0] >= step else 1)

    calls = [0]
    return lambda model, index: loss(model, index, calls)


def test_a_loss_that_is_not_finite_stops_the_training_and_is_not_saved(path, capsys):
    with pytest.raises(
        CourseError, match=r"no longer a finite number from step 5 on: lower the learning rate or set grad_clip"
    ):
        Training(loss=nan_from(5)).go()
    Training(checkpoint=path).go(3)
    content = path.read_bytes()
    with pytest.raises(CourseError, match="from step 5 on"):
        Training(checkpoint=path, loss=nan_from(2)).go()
    Training(checkpoint=path, loss=nan_from(2)).go(6)  # leaves the loop after the loss is gone
    assert "from step 5 on" in capsys.readouterr().out
    assert path.read_bytes() == content


def test_a_first_loss_that_is_not_finite_points_to_the_data(path):
    with pytest.raises(CourseError, match=r"not a finite number from step 1 on, .* look for values .* in the data"):
        Training(loss=nan_from(1)).go()
    with pytest.raises(CourseError, match="from step 2 on: lower the learning rate"):
        Training(loss=nan_from(2)).go()
    Training(checkpoint=path).go(3)
    with pytest.raises(CourseError, match="from step 4 on: lower the learning rate"):  # the first step after a resume
        Training(checkpoint=path, loss=nan_from(1)).go()


def test_saving_happens_every_so_often(path, monkeypatch):
    now, saved = [0.0], []
    monkeypatch.setattr(loop.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(checkpoints, "save", lambda path, tensors, facts: saved.append(facts["step"]))
    for _ in Training(checkpoint=path, save_every=2.5).loop():
        now[0] += 1
    assert saved == [4, 7]


def test_seconds_go_on_where_they_were(path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(loop.time, "monotonic", lambda: now[0])

    def loss(model, index):
        now[0] += 1
        return net_loss(model, index)

    Training(checkpoint=path, loss=loss).go(3)
    now[0] = 1000.0
    seconds = [step.seconds for step in Training(checkpoint=path, loss=loss).loop()]
    assert seconds == [4, 5, 6, 7]
    assert [step.seconds for step in Training(checkpoint=path).loop()] == [7]


# ----------------------------------------------------------------------------------------------------------------- steps
def test_every_epoch_visits_each_sample_once_in_its_own_order():
    seen = []

    def loss(model, index):
        seen.append(index)
        return net_loss(model, index)

    Training(loss=loss, steps=9).go()
    epochs = [torch.cat(seen[start : start + 3]).tolist() for start in (0, 3, 6)]
    assert all(sorted(epoch) == list(range(N)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0] and epochs[0] != list(range(N))
    assert [len(index) for index in seen] == [4, 4, 2] * 3
    assert steps_per_epoch(N, BATCH) == 3 and steps_per_epoch(2 * BATCH, BATCH) == 2
    assert all(torch.equal(index, batch_of(k, N, BATCH, 0)) for k, index in enumerate(seen))
    assert batch_of(0, N, BATCH, 1).tolist() != seen[0].tolist()


def test_a_batch_larger_than_the_data_is_the_data():
    assert sorted(batch_of(5, 3, 100, 0).tolist()) == [0, 1, 2]
    assert [step.images for step in Training(batch_size=100, steps=2).loop()] == [10, 20]


def test_steps_tell_what_was_done():
    steps = list(Training().loop())
    assert [step.step for step in steps] == list(range(1, STEPS + 1)) and {step.total for step in steps} == {STEPS}
    assert (
        [step.images for step in steps]
        == [4, 8, 10, 14, 18, 20, 24]
        == [images_after(k, N, BATCH) for k in range(1, 8)]
    )
    assert [step.lr for step in steps] == [0.1 * lr_schedules.cosine(k, STEPS) for k in range(STEPS)]
    assert all(isinstance(step, Step) for step in steps)
    assert [step.loss for step in steps] == steps[-1].losses.tolist()
    assert steps[0].seconds <= steps[-1].seconds


def test_the_model_trains_in_training_mode_and_the_average_stays_in_evaluation_mode():
    trained = Training()
    trained.model.eval()
    trained.go()
    assert trained.model.training and not trained.ema.model.training
    assert not any(weight.requires_grad for weight in trained.ema.model.parameters())


def test_a_loop_of_train_is_plain_sgd():
    """Against the loop one would write by hand, with the same batches and the same draws."""
    trained = Training("plain", ema=None, grad_clip=None, lr_schedule=lr_schedules.constant).go()
    torch.manual_seed(0)
    model = Net().to(memory_format=torch.channels_last)
    for k in range(STEPS):
        torch.manual_seed(k)
        model.zero_grad()
        net_loss(model, batch_of(k, N, BATCH, 0)).backward()
        with torch.no_grad():
            for weight in model.parameters():
                weight -= 0.1 * weight.grad
    assert all(
        torch.allclose(one, two, atol=1e-6)
        for one, two in zip(model.parameters(), trained.model.parameters(), strict=True)
    )


def test_clip_bounds_the_gradient_and_so_the_step():
    for clip, bounded in [(1e-3, True), (None, False)]:
        trained = Training("plain", grad_clip=clip, lr_schedule=lr_schedules.constant, steps=1)
        before = torch.cat([weight.detach().flatten().clone() for weight in trained.model.parameters()])
        trained.go()
        moved = (torch.cat([weight.detach().flatten() for weight in trained.model.parameters()]) - before).norm().item()
        assert (moved <= 0.1 * 1e-3 * 1.001) == bounded


@pytest.mark.parametrize("wrong", [dict(n=0), dict(steps=0), dict(batch_size=0)])
def test_no_data_no_steps_and_no_batch_are_refused(wrong):
    with pytest.raises(CourseError, match="at least 1"):
        Training(**wrong).go()


# --------------------------------------------------------------------------------------------------- rates and averages
def test_learning_rate_schedules():
    assert [lr_schedules.constant(k, 9) for k in (0, 8)] == [1, 1]
    assert lr_schedules.cosine(0, 8) == 1 and lr_schedules.cosine(8, 8) == 0
    assert lr_schedules.cosine(2, 8) == pytest.approx((1 + math.sqrt(0.5)) / 2)
    warm = [lr_schedules.warmup_cosine(k, 100) for k in range(100)]
    assert warm[:10] == pytest.approx([(k + 1) / 10 for k in range(10)]) and warm[10] == 1
    assert warm[55] == pytest.approx(0.5) and 0 < warm[99] < 0.001 and max(warm) == 1
    assert lr_schedules.warmup_cosine(0, 1) == lr_schedules.warmup_cosine(0, 5) == 1
    assert [lr_schedules.multistep(k, 200) for k in (0, 99, 100, 149, 150, 199)] == [1, 1, 0.1, 0.1, 0.01, 0.01]
    marks = [lr_schedules.late_multistep(k, 200) for k in (0, 4, 5, 159, 160, 179, 180, 199)]
    assert marks == [0.2, 1, 1, 1, 0.01, 0.01, 0.0001, 0.0001]  # both marks count
    assert lr_schedules.late_multistep(0, 10) == 1  # too short for a rise


def test_average_warms_up_by_its_formula():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    ema = EMA(model, decay=0.6)
    expected = [weight.detach().clone() for weight in model.parameters()]
    decays = []
    for k in range(12):
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(torch.randn_like(weight))
        model(torch.randn(4, 3))
        ema.update(model, k)
        decays.append(min(0.6, (1 + k) / (10 + k)))
        expected = [
            decays[-1] * old + (1 - decays[-1]) * new for old, new in zip(expected, model.parameters(), strict=True)
        ]
    assert decays[0] == 0.1 and decays[1] == 2 / 11 and decays[-1] < 0.6
    for ours, theirs in zip(ema.model.parameters(), expected, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)
    assert torch.equal(ema.model[1].running_mean, model[1].running_mean) and ema.model[1].num_batches_tracked == 12


def test_average_reaches_its_decay_and_is_a_copy():
    model = nn.Linear(1, 1, bias=False)
    ema = EMA(model, decay=0.9)
    with torch.no_grad():
        ema.model.weight.fill_(1.0)
        model.weight.fill_(0.0)
    ema.update(model, 10**6)
    assert ema.model.weight.item() == pytest.approx(0.9) and model.weight.item() == 0


# ------------------------------------------------------------------------------------------------------------ precision
@pytest.mark.parametrize("word", ["fp16", "half", "", "BF16"])
def test_unknown_precisions_are_refused(word):
    with pytest.raises(CourseError, match="Unknown precision.*auto, bf16, fp32"):
        autocast(torch.device("cpu"), word)
    with pytest.raises(CourseError, match="Unknown precision"):
        Training(precision=word).go()


def test_precision_follows_the_word_and_the_machine(monkeypatch):
    cpu, linear, x = torch.device("cpu"), nn.Linear(2, 2), torch.ones(1, 2)

    def dtype(word):
        with autocast(cpu, word):
            return linear(x).dtype

    assert dtype("bf16") is torch.bfloat16 and dtype("fp32") is torch.float32
    for capabilities, expected in [
        ({"avx512_bf16": True}, "bf16"),
        ({"amx_bf16": True}, "bf16"),
        ({"avx2": True}, "fp32"),
    ]:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=capabilities: found)
        assert precision_for(cpu) == expected
        assert dtype("auto") is {"bf16": torch.bfloat16, "fp32": torch.float32}[expected]
    for native, expected in [(True, "bf16"), (False, "fp32")]:
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, found=native: found)
        assert precision_for(torch.device("cuda")) == expected
    assert precision_for(torch.device("mps")) == "fp32"
    monkeypatch.setenv("LT_PRECISION", "fp32")
    assert precision_for(torch.device("cuda")) == precision_for(cpu) == "fp32"
    monkeypatch.setenv("LT_PRECISION", "fp16")
    with pytest.raises(CourseError, match="LT_PRECISION"):
        precision_for(cpu)


def test_device_is_the_accelerator_if_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert devices.device() == torch.device("cpu")
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("mps"))
    assert devices.device() == torch.device("mps")


def test_a_network_that_several_processes_train_is_not_compiled(monkeypatch):
    model = torch.nn.Linear(2, 2)
    monkeypatch.setattr(torch, "compile", lambda network, **options: ("compiled", network, options))
    assert loop.compile_for_training(model) == ("compiled", model, {"dynamic": False, "mode": "default"})
    monkeypatch.setattr(loop.ranks, "place", lambda: (1, 2))
    assert loop.compile_for_training(model, "reduce-overhead") is model
    with pytest.raises(CourseError, match="mode of torch.compile"):
        loop.compile_for_training(model, "fast")
