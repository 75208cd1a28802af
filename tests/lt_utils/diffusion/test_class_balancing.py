"""Class-balancing diffusion: identities of its loss, its second labels, its four mechanisms, its averages and resume."""

import itertools

import pytest
import torch
from torch import nn

from lt_utils.data import datasets
from lt_utils.diffusion import class_balancing
from lt_utils.diffusion.class_balancing import MECHANISMS, class_balancing_loss, label_prior, train_generator
from lt_utils.diffusion.image_diffusion import train_image_diffusion
from lt_utils.diffusion.losses import diffusion_loss, target
from lt_utils.diffusion.schedules import linear_schedule
from lt_utils.errors import CourseError
from lt_utils.hashing import fingerprint
from lt_utils.models.unet import UNet, published_unet
from lt_utils.training import lr_schedules
from lt_utils.training.ema import EMA
from lt_utils.training.lr_schedules import linear_warmup, warmup_cosine

SCHEDULE, B, C = linear_schedule(), 16, 4
X0 = torch.randn(B, 1, 4, 4, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(B) % C


class Table(nn.Module):
    """A denoiser whose output is one trained number per label, everywhere; it notes what it was asked."""

    def __init__(self, classes: int = C):
        super().__init__()
        self.value = nn.Parameter(torch.linspace(-1, 2, classes + 1))
        self.no_label, self.asked, self.outputs = classes, [], []

    def forward(self, x, t, y, *rest):
        self.asked.append((x, t, y, *rest))
        self.outputs.append(self.value[y].view(-1, 1, 1, 1).expand(x.shape) + 0 * x)
        self.outputs[-1].retain_grad()
        return self.outputs[-1]


def terms(seed=0, model=None, prior=None, dropout=0.0, **options):
    torch.manual_seed(seed)
    prior = label_prior("uniform", [1] * C) if prior is None else prior
    model = model or Table()
    return class_balancing_loss(model, SCHEDULE, X0, LABELS, prior, label_dropout=dropout, **options), model


# ------------------------------------------------------------------------------------------------------ loss identities
def test_values_are_those_of_the_formula():
    """Noise, regular and commitment, each against the formula written out for every sample."""
    loss, model = terms(tau=0.7, gamma=0.3)
    x_t, t, y = model.asked[0]
    out = model.outputs[0].detach()
    (e, other), t = out.chunk(2), t[:B]
    torch.manual_seed(0)
    assert torch.equal(t, torch.randint(1000, (B,)))
    eps = torch.randn_like(X0)
    assert torch.allclose(x_t[:B], SCHEDULE.add_noise(X0, t, eps)) and torch.equal(x_t[:B], x_t[B:])
    gap = sum(0.7 * t[i].item() / 1000 * (e[i] - other[i]).square().mean().item() for i in range(B)) / B
    assert loss.noise.item() == pytest.approx((e - eps).square().mean().item(), rel=1e-5)
    assert loss.regular.item() == pytest.approx(gap, rel=1e-5) and gap > 0.01
    assert loss.commitment.item() == pytest.approx(gap, rel=1e-5)
    assert loss.total.item() == pytest.approx(loss.noise.item() + 1.3 * gap, rel=1e-5)


def test_the_class_balancing_terms_are_1_25_times_the_weighted_gap():
    loss, _ = terms()
    assert (loss.total - loss.noise).item() == pytest.approx(1.25 * loss.regular.item(), rel=1e-5)


def test_gradients_on_both_predictions_are_as_4_to_minus_1():
    loss, model = terms()
    (loss.regular + 0.25 * loss.commitment).backward()
    first, second = model.outputs[0].grad.chunk(2)
    assert first.abs().max() > 0 and torch.allclose(first, -4 * second, rtol=1e-5)
    # And each term alone moves one of them only.
    loss, model = terms()
    loss.regular.backward()
    assert not model.outputs[0].grad[B:].any() and model.outputs[0].grad[:B].any()
    loss, model = terms()
    loss.commitment.backward()
    assert not model.outputs[0].grad[:B].any() and model.outputs[0].grad[B:].any()


def test_zero_when_the_second_label_is_the_first():
    one = [1.0, 0, 0, 0]
    torch.manual_seed(0)
    labels = torch.zeros(B, dtype=torch.long)
    loss = class_balancing_loss(Table(), SCHEDULE, X0, labels, label_prior(one, [1] * C), label_dropout=0.0)
    assert loss.regular.item() == loss.commitment.item() == 0 and loss.total.item() == loss.noise.item()


def test_zero_at_step_0_and_growing_linearly_with_t(monkeypatch):
    found = {}
    for step in (0, 250, 500, 999):
        with monkeypatch.context() as patch:
            patch.setattr(torch, "randint", lambda high, size, step=step, **_: torch.full(size, step))
            found[step] = terms()[0].regular.item()
    assert found[0] == 0
    assert found[500] == pytest.approx(2 * found[250], rel=1e-5) and found[250] > 0
    assert found[999] == pytest.approx(0.999 * found[500] / 0.5, rel=1e-5)


def test_linear_in_tau_and_off_at_tau_0():
    first, double, none = (terms(tau=tau)[0] for tau in (0.3, 0.6, 0.0))
    assert double.regular.item() == pytest.approx(2 * first.regular.item(), rel=1e-5)
    assert double.noise.item() == first.noise.item() == none.total.item()


@pytest.mark.parametrize("objective", ["v", "x0"])
def test_the_gap_is_one_of_noise_whatever_the_network_predicts(objective):
    """A network that says the same in another parametrisation has the same class-balancing terms."""

    class Other(Table):
        def forward(self, x, t, y, *rest):
            a, s = SCHEDULE.scales(t, x)
            noise = super().forward(x, t, y)
            return target(objective, (x - s * noise) / a, noise, a, s)

    assert terms(model=Other(), objective=objective)[0].regular.item() == pytest.approx(
        terms()[0].regular.item(), rel=1e-3
    )


# ------------------------------------------------------------------------------------------------- second labels, dropout
def test_second_labels_follow_the_prior():
    counts = [500, 300, 150, 50]
    for prior, expected in (
        ("train", [0.5, 0.3, 0.15, 0.05]),
        ("uniform", [0.25] * 4),
        ([0, 1, 0, 3], [0, 0.25, 0, 0.75]),
    ):
        model, many = Table(), torch.zeros(20_000, dtype=torch.long)
        torch.manual_seed(0)
        probabilities = label_prior(prior, counts)
        class_balancing_loss(model, SCHEDULE, X0[:1].expand(20_000, -1, -1, -1), many, probabilities)
        other = model.asked[0][2][20_000:]
        share = torch.bincount(other, minlength=C).double() / 20_000
        assert share.tolist() == pytest.approx(expected, abs=0.012)
        assert probabilities.tolist() == pytest.approx(expected)


@pytest.mark.parametrize("prior", ["trian", [1, 2], [0, 0, 0, 0], [1, -1, 1, 1], [1, 1, 1, float("nan")]])
def test_priors_that_are_none_are_refused(prior):
    with pytest.raises(CourseError, match="prior"):
        label_prior(prior, [1] * C)


def test_both_labels_go_through_the_network_in_one_batch_of_2b():
    vector = torch.randn(B, 9)
    _, model = terms(augmentation=vector)
    x, t, y, augmentation = model.asked[0]
    assert len(model.asked) == 1 and len(x) == len(t) == len(y) == 2 * B
    assert torch.equal(y[:B], LABELS) and torch.equal(augmentation, torch.cat([vector, vector]))


def test_samples_without_a_label_have_no_class_balancing_term():
    loss, model = terms(dropout=0.5)
    shown = model.asked[0][2][:B]
    (loss.regular + loss.commitment).backward()
    first, second = model.outputs[0].grad.chunk(2)
    dropped = shown == C
    assert 0 < dropped.sum() < B
    assert not first[dropped].any() and not second[dropped].any()
    # The mean is over all B samples, as if the whole batch were dropped with this probability.
    t, (e, other) = model.asked[0][1][:B], model.outputs[0].detach().chunk(2)
    gap = (t / 1000 * ~dropped).view(-1, 1, 1, 1) * (e - other).square()
    assert loss.regular.item() == pytest.approx(gap.mean().item(), rel=1e-5)


def test_label_dropout_is_per_sample():
    shares = []
    for seed in range(200):
        model = terms(seed, dropout=0.3, augmentation=torch.ones(B, 9))[1]
        shares.append((model.asked[0][2][:B] == C).float().mean().item())
        assert model.asked[0][3].all()  # a dropped label leaves the augmentation as it is
    assert len(set(shares)) > 5 and sum(shares) / 200 == pytest.approx(0.3, abs=0.03)


@pytest.mark.parametrize("objective", ["eps", "v"])
def test_without_a_prior_it_is_the_regular_diffusion_loss(objective):
    torch.manual_seed(3)
    regular = diffusion_loss(Table(), SCHEDULE, X0, LABELS, objective, 0.4)
    torch.manual_seed(3)
    ours = class_balancing_loss(Table(), SCHEDULE, X0, LABELS, objective=objective, label_dropout=0.4)
    assert ours.total.item() == ours.noise.item() == regular.item()


def test_an_unconditional_network_cannot_be_class_balanced():
    with pytest.raises(CourseError, match="number of classes"):
        class_balancing_loss(Table(0), SCHEDULE, X0, LABELS, torch.ones(1))


def test_one_pass_of_2b_equals_two_passes_of_b():
    torch.manual_seed(0)
    model = UNet(1, C, 8, (1, 2), (1,), 1)
    for weight in model.parameters():
        if weight.ndim > 1:
            nn.init.normal_(weight, std=0.2)

    class Twice(nn.Module):
        no_label = C

        def forward(self, *inputs):
            halves = [value.chunk(2) for value in inputs]
            return torch.cat([model(*(half[i] for half in halves)) for i in (0, 1)])

    one, two = terms(model=model)[0], terms(model=Twice())[0]
    assert one.total.item() == pytest.approx(two.total.item(), rel=1e-5) and one.regular.item() > 1e-4


# --------------------------------------------------------------------------------------------------------- the mechanisms
@pytest.fixture(scope="module")
def data():
    return datasets.load().long_tailed(100)


def tiny(classes=10, augmentation=0, seed=0) -> UNet:
    torch.manual_seed(seed)
    return UNet(1, classes, 8, (1, 2), (), 1, dropout=0.1, augmentation=augmentation)


def quick(start, data, mechanism="regular", **options):
    options = dict(steps=3, batch_size=8, seed=0) | options
    return train_generator(start, data, SCHEDULE, mechanism, **options)


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_every_mechanism_trains_and_leaves_its_start_alone(data, mechanism, capsys):
    start = tiny(augmentation=9)
    before = fingerprint(start)
    model = quick(start, data, mechanism, lr=1e-2, lr_schedule=lambda k, n: 1.0)
    assert fingerprint(start) == before != fingerprint(model) and not model.training
    assert f"{mechanism}, seed 0" in capsys.readouterr().out


def test_the_mechanisms_are_the_published_ones():
    rows = {name: (m.batch_size, m.steps, m.omega, m.balanced, m.augmented, m.prior) for name, m in MECHANISMS.items()}
    assert rows == {
        "regular": (64, 200_000, 0.8, False, False, "train"),
        "balanced": (48, 300_000, 1.6, True, False, "train"),
        "balanced-augmented": (48, 500_000, 1.4, True, True, "train"),
        "balanced-finetuned": (48, 50_000, 2.0, True, False, "uniform"),
    }


def test_what_each_mechanism_gives_the_loss(data, monkeypatch):
    seen = {}
    loss = class_balancing.class_balancing_loss

    def spy(denoiser, schedule, x0, labels, prior, **options):
        seen[current] = (x0, labels, prior, options)
        return loss(denoiser, schedule, x0, labels, prior, **options)

    monkeypatch.setattr(class_balancing, "class_balancing_loss", spy)
    for current in MECHANISMS:
        quick(tiny(augmentation=9), data, current, steps=1, tau=0.4)
    train_prior = torch.tensor(data.counts) / sum(data.counts)
    assert seen["regular"][2] is None
    assert torch.allclose(seen["balanced"][2].cpu(), train_prior)
    assert torch.allclose(seen["balanced-augmented"][2].cpu(), train_prior)
    assert torch.allclose(seen["balanced-finetuned"][2].cpu(), torch.full((10,), 0.1))
    assert all(options["tau"] == 0.4 for *_, options in seen.values())
    assert [name for name, one in seen.items() if one[3]["augmentation"] is not None] == ["balanced-augmented"]
    # Not augmented: the images are the training images, some of them mirrored.
    x0 = seen["regular"][0].add(1).mul(127.5).round().byte().cpu()
    known = {tuple(image.flatten().tolist()) for image in data.train_images}
    assert all(tuple(one.flatten().tolist()) in known or tuple(one.flip(2).flatten().tolist()) in known for one in x0)


def test_fine_tuning_starts_from_the_given_weights_with_a_fresh_warm_up(data):
    regular = quick(tiny(), data, lr=1e-2, lr_schedule=lambda k, n: 1.0)
    # The first rate of the warm-up is 0, so after one step nothing has moved, neither the network nor its average.
    tuned = quick(regular, data, "balanced-finetuned", steps=1)
    assert fingerprint(tuned) == fingerprint(regular)
    moved = quick(regular, data, "balanced-finetuned", steps=2, lr=1.0)
    assert fingerprint(moved) != fingerprint(regular)


def test_regular_training_is_that_of_the_earlier_notebooks_to_the_last_bit(data):
    options = dict(steps=3, batch_size=8, lr=1e-2, ema_decay=0.9, objective="v", label_dropout=0.2, seed=5)
    earlier = train_image_diffusion(data, SCHEDULE, width=8, mults=(1, 2), **options)
    torch.manual_seed(5)
    ours = quick(UNet(1, 10, 8, (1, 2), (), 1), data, lr_schedule=warmup_cosine, **options)
    assert fingerprint(ours) == fingerprint(earlier)


def test_an_unconditional_generator_trains_regularly_and_not_otherwise(data):
    assert quick(tiny(0), data).no_label == 0
    with pytest.raises(CourseError, match="number of classes"):
        quick(tiny(0), data, "balanced")


def test_mistakes_are_refused(data):
    with pytest.raises(CourseError, match="Did you mean 'balanced'"):
        quick(tiny(), data, "balancd")
    with pytest.raises(CourseError, match="augmentation=9"):
        quick(tiny(), data, "balanced-augmented")


def test_the_warm_up_starts_at_0_and_stays_at_1():
    rise = linear_warmup(5000)
    assert [rise(k, 300_000) for k in (0, 1, 2500, 5000, 299_999)] == [0, 1 / 5000, 0.5, 1, 1]


def test_the_average_forgets_its_start():
    average, model = EMA(nn.Linear(1, 1), 0.9999), nn.Linear(1, 1)
    nn.init.zeros_(average.model.weight)
    nn.init.ones_(model.weight)
    for k in range(500):
        average.update(model, k)
    assert average.model.weight.item() == pytest.approx(1, abs=2e-3)


class Kill(Exception):
    pass


@pytest.mark.parametrize("mechanism", ["balanced", "balanced-augmented"])
def test_a_training_killed_and_run_again_ends_in_the_same_bits(data, mechanism, tmp_path, monkeypatch):
    """Killed without warning: only what was on the disk is left, and that is some steps old."""
    start = tiny(augmentation=9)
    options = dict(steps=8, lr=1e-3, lr_schedule=linear_warmup(2), precision="fp32")
    whole = quick(start, data, mechanism, **options)
    calls, loss = itertools.count(), class_balancing.class_balancing_loss

    def dies(*args, **kwargs):
        if next(calls) == 5:
            raise Kill
        return loss(*args, **kwargs)

    path = tmp_path / "a.safetensors"
    with monkeypatch.context() as patch:
        patch.setattr(class_balancing, "class_balancing_loss", dies)
        with pytest.raises(Kill):
            quick(start, data, mechanism, checkpoint=path, save_every=0.0, **options)
    assert path.exists()
    again = quick(start, data, mechanism, checkpoint=path, **options)
    assert fingerprint(again) == fingerprint(whole)


def test_a_checkpoint_of_another_training_is_refused(data, tmp_path):
    path = tmp_path / "a.safetensors"
    quick(tiny(), data, "balanced", checkpoint=path)
    for mechanism, options in (("regular", {}), ("balanced", {"tau": 0.5}), ("balanced", {"prior": "uniform"})):
        with pytest.raises(CourseError, match="another training"):
            quick(tiny(), data, mechanism, checkpoint=path, **options)
    with pytest.raises(CourseError, match="another training"):
        quick(tiny(seed=1), data, "balanced", checkpoint=path)
    quick(tiny(), data, "balanced", checkpoint=path)


def test_the_published_small_network_trains_on_a_cpu(data):
    """The smoke run: a step of the loss as published, on the published small network, with finite gradients."""
    torch.manual_seed(0)
    model = published_unet(10, "small", channels=1)
    labels = data.train_labels[:8]
    images = data.train_images[:8].float().div(127.5).sub(1)
    loss = class_balancing_loss(model, SCHEDULE, images, labels, label_prior("train", data.counts))
    loss.total.backward()
    assert loss.noise.item() == pytest.approx(
        1, abs=0.1
    )  # a network that starts near zero is wrong by the noise itself
    grads = [weight.grad for weight in model.parameters() if weight.grad is not None]
    assert all(grad.isfinite().all() for grad in grads) and sum(grad.abs().sum() for grad in grads) > 0


def test_a_warm_up_of_no_steps_is_the_whole_rate_from_the_start():
    rise = lr_schedules.linear_warmup(0)
    assert [rise(k, 10) for k in (0, 1, 9)] == [1.0, 1.0, 1.0]
    assert [lr_schedules.linear_warmup(4)(k, 10) for k in (0, 1, 4, 9)] == [0, 0.25, 1, 1]


def test_a_prior_of_another_number_of_classes_is_refused():
    network = UNet(1, 3, 8, (1,), (), 1)
    images, labels = torch.randn(2, 1, 4, 4), torch.tensor([0, 1])
    with pytest.raises(CourseError, match="The prior has 4 classes, the network 3"):
        class_balancing.class_balancing_loss(network, linear_schedule(10), images, labels, torch.full((4,), 0.25))


@pytest.mark.parametrize(
    "wrong", [dict(label_dropout=1.5), dict(label_dropout=float("nan")), dict(tau=-1), dict(ema_decay=2)], ids=str
)
def test_numbers_out_of_range_are_refused(wrong):
    data = datasets.load().long_tailed(100)
    with pytest.raises(CourseError, match="label_dropout and ema_decay lie in 0..1, and tau is at least 0"):
        class_balancing.train_generator(
            UNet(1, 10, 8, (1,), (), 1), data, linear_schedule(10), "balanced", steps=1, **wrong
        )
