"""Schedules, objectives, loss and guidance of the diffusion core, with the test vectors of DDPM and of the cosine schedule."""

import pytest
import torch
from torch import nn

from lt_utils.diffusion.generate import sample
from lt_utils.diffusion.losses import OBJECTIVES, diffusion_loss, drop_labels, estimates, target
from lt_utils.diffusion.samplers import ancestral, check_labels, ddim, ddim_steps, guided
from lt_utils.diffusion.schedules import Schedule, cosine_schedule, linear_schedule
from lt_utils.errors import CourseError


class Fake(nn.Module):
    """A denoiser made of a function(x, t, y), which notes what it was asked."""

    def __init__(self, function, classes=3):
        super().__init__()
        self.function, self.no_label, self.asked = function, classes, []
        self.anchor = nn.Parameter(torch.zeros(()))

    def forward(self, x, t, y):
        self.asked.append((x, t, y))
        return self.function(x, t, y) + self.anchor


# ------------------------------------------------------------------------------------------------------------ schedules
@pytest.mark.parametrize("steps", [10, 25, 100, 400, 1000, 4000])
def test_linear_schedule_leaves_no_signal_at_its_end_whatever_its_length(steps):
    schedule, published = linear_schedule(steps), linear_schedule()
    assert schedule.alpha_bar[-1].sqrt() < 0.007 and len(schedule) == steps  # published: 0.0064
    if steps >= 100:  # at equal times about equal
        assert torch.allclose(schedule.alpha_bar[steps // 2].sqrt(), published.alpha_bar[500].sqrt(), atol=0.03)
    given = linear_schedule(steps, 1e-4, 0.02)  # values that are given are taken as they are
    assert torch.allclose(given.beta[[0, -1]], torch.tensor([1e-4, 0.02], dtype=torch.float64))


def test_linear_schedule_vector():
    schedule = linear_schedule()
    assert len(schedule) == 1000 and schedule.alpha_bar.dtype == torch.float64
    at = [0, 1, 99, 249, 499, 749, 999]
    expected = [0.9999, 0.99978009, 0.89701815, 0.52408537, 0.07858724, 0.00335055, 4.0358e-5]
    assert schedule.alpha_bar[at].tolist() == pytest.approx(expected, rel=1e-5)
    assert schedule.alpha_bar[at[1:6]].tolist() == pytest.approx(expected[1:6], abs=5e-9)
    assert schedule.posterior_variance[1].item() == pytest.approx(5.4532e-5, abs=5e-10)
    assert schedule.posterior_variance[0] == 0
    assert schedule.beta[[0, 999]].tolist() == pytest.approx([1e-4, 0.02], rel=1e-9)


def test_cosine_schedule_signal_to_noise():
    schedule = cosine_schedule()
    snr = schedule.snr()
    assert snr[0].item() == pytest.approx(24221, abs=0.5) and snr[10].item() == pytest.approx(1386, abs=0.5)
    assert snr[100].item() == pytest.approx(34.2, abs=0.05) and snr[500].item() == pytest.approx(0.97, abs=0.005)
    assert snr[900].item() == pytest.approx(0.024, abs=5e-4) and snr.mean().item() == pytest.approx(86, abs=0.5)
    assert schedule.beta.max().item() == pytest.approx(0.999) and (schedule.beta > 0).all()


def test_posterior_variance_is_that_of_bayes_rule():
    """1 / var = alpha / beta + 1 / (1 - previous alpha_bar): two Gaussians multiplied."""
    schedule = cosine_schedule(50)
    before = schedule.alpha_bar[:-1]
    precision = (1 - schedule.beta[1:]) / schedule.beta[1:] + 1 / (1 - before)
    assert torch.allclose(schedule.posterior_variance[1:], 1 / precision, rtol=1e-10)


@pytest.mark.parametrize(
    "alpha_bar",
    [[], [0.5], [0.5, 0.5], [0.4, 0.5], [1.0, 0.5], [0.5, 0.0], [0.5, -0.1], [0.9, float("nan"), 0.1], [[0.9], [0.5]]],
)
def test_schedules_that_do_not_fall_inside_0_to_1_are_refused(alpha_bar):
    with pytest.raises(CourseError, match="fall strictly and stay between 0 and 1"):
        Schedule(torch.tensor(alpha_bar))


def test_schedule_with_impossible_betas_is_refused():
    with pytest.raises(CourseError):
        linear_schedule(10, first=0.5, last=1.5)


@pytest.mark.parametrize("shape", [(4, 3), (4, 1, 5, 6)])
def test_noise_is_added_per_sample_with_its_own_step(shape):
    schedule = linear_schedule(10)
    x0, eps, t = torch.randn(shape), torch.randn(shape), torch.tensor([0, 3, 9, 3])
    x_t = schedule.add_noise(x0, t, eps)
    for number in range(4):
        abar = schedule.alpha_bar[t[number]].item()
        assert torch.allclose(x_t[number], abar**0.5 * x0[number] + (1 - abar) ** 0.5 * eps[number], atol=1e-6)


def test_scales_have_the_dtype_asked_for_and_are_rounded_last():
    schedule, t = linear_schedule(), torch.tensor([0, 999])
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        a, s = schedule.scales(t, torch.zeros(2, 3, dtype=dtype))
        assert a.dtype == s.dtype == dtype and a.shape == s.shape == (2, 1)
        assert torch.equal(s[:, 0], (1 - schedule.alpha_bar[t]).sqrt().to(dtype))
        assert torch.equal(a[:, 0], schedule.alpha_bar[t].sqrt().to(dtype))


# ----------------------------------------------------------------------------------------------------------- objectives
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_estimates_invert_the_target(objective):
    schedule = cosine_schedule(100)
    x0, eps, t = torch.randn(2, 50, 3, dtype=torch.float64).unbind() + (torch.arange(50) * 2,)
    a, s = schedule.scales(t, x0)
    found = estimates(objective, target(objective, x0, eps, a, s), a * x0 + s * eps, a, s)
    assert torch.allclose(found[0], x0, atol=1e-9) and torch.allclose(found[1], eps, atol=1e-9)


def test_targets_are_what_their_names_say():
    x0, eps = torch.tensor([[2.0]]), torch.tensor([[3.0]])
    a, s = torch.tensor([[0.6]]), torch.tensor([[0.8]])
    assert target("eps", x0, eps, a, s) == 3 and target("x0", x0, eps, a, s) == 2
    assert target("v", x0, eps, a, s).item() == pytest.approx(0.6 * 3 - 0.8 * 2)


@pytest.mark.parametrize("call", [lambda a: target("noise", a, a, a, a), lambda a: estimates("noise", a, a, a, a)])
def test_unknown_objectives_are_refused(call):
    with pytest.raises(CourseError, match="Unknown objective 'noise'.*eps, x0, v"):
        call(torch.ones(1, 1))


# ----------------------------------------------------------------------------------------------------------------- loss
def test_labels_are_dropped_one_by_one_at_their_rate():
    torch.manual_seed(0)
    labels = torch.arange(20_000) % 7
    dropped = drop_labels(labels, 0.1, 7)
    gone = dropped == 7
    assert gone.double().mean().item() == pytest.approx(0.1, abs=0.01) and torch.equal(dropped[~gone], labels[~gone])
    assert dropped.dtype == torch.int64
    # Per sample and not per batch: batches of 100 hold about ten, never none or all.
    assert 0 < gone.view(-1, 100).sum(1).min() and gone.view(-1, 100).sum(1).max() < 30
    assert torch.equal(drop_labels(labels, 0, 7), labels) and (drop_labels(labels, 1, 7) == 7).all()


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_loss_is_zero_for_the_right_answer_and_the_mean_square_otherwise(objective):
    """All data are one point, so that the right answer is known from x_t alone."""
    schedule = linear_schedule(20)
    x0 = torch.full((500, 4), 0.7, dtype=torch.float64)

    def right(x, t, y):
        a, s = schedule.scales(t, x)
        return target(objective, torch.full_like(x, 0.7), (x - a * 0.7) / s, a, s)

    labels = torch.zeros(500, dtype=torch.long)
    assert diffusion_loss(Fake(right), schedule, x0, labels, objective).item() < 1e-8
    wrong = Fake(lambda x, t, y: right(x, t, y) + 2)
    assert diffusion_loss(wrong, schedule, x0, labels, objective).item() == pytest.approx(4, rel=1e-5)


def test_loss_draws_steps_uniformly_noise_anew_and_labels_with_dropout():
    torch.manual_seed(0)
    schedule, fake = linear_schedule(10), Fake(lambda x, t, y: torch.zeros_like(x))
    x0, labels = torch.full((20_000, 1), 3.0), torch.arange(20_000) % 3
    loss = diffusion_loss(fake, schedule, x0, labels, "eps", label_dropout=0.2)
    x, t, y = fake.asked[0]
    assert loss.item() == pytest.approx(1, abs=0.03)  # E eps^2
    assert torch.bincount(t, minlength=10).div(20_000).tolist() == pytest.approx([0.1] * 10, abs=0.01)
    assert (y == 3).double().mean().item() == pytest.approx(0.2, abs=0.01) and torch.equal(y[y < 3], labels[y < 3])
    a, s = schedule.scales(t, x0)
    eps = (x - a * x0) / s
    assert eps.mean().item() == pytest.approx(0, abs=0.03) and eps.var().item() == pytest.approx(1, abs=0.03)


# ------------------------------------------------------------------------------------------------------------- guidance
def labelled(x, t, y):
    """Linear in x, and different for each label and step."""
    return 0.3 * x + (y + 1).view(-1, 1) * 0.1 + t.view(-1, 1) * 0.01


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_guidance_is_linear_in_omega_and_the_diffusers_scale_is_one_plus_omega(objective):
    schedule, fake = cosine_schedule(20), Fake(labelled)
    x, t, y = torch.randn(5, 4), torch.full((5,), 7), torch.tensor([0, 1, 2, 0, 3])
    nobody = torch.full_like(y, 3)

    def predict(omega, labels=y):
        return torch.stack(guided(fake, schedule, labels, objective, omega)(x, t))

    plain, none = predict(0.0), predict(0.0, nobody)
    for omega in (0.5, 2.0, -1.0):
        # (1 + omega) conditional - omega unconditional, for x_0 and for eps alike: both are linear in the output.
        assert torch.allclose(predict(omega), none + (1 + omega) * (plain - none), atol=1e-5)
    assert torch.allclose(predict(-1.0), none, atol=1e-5)
    assert torch.allclose(predict(3.0)[:, 4], plain[:, 4], atol=1e-5)  # no label: nothing to stress


def test_guidance_of_the_three_objectives_is_the_same():
    schedule = cosine_schedule(20)
    x, t, y = torch.randn(5, 4), torch.full((5,), 7), torch.tensor([0, 1, 2, 0, 1])
    a, s = schedule.scales(t, x)

    def network(objective):
        def output(x, t, y):
            a, s = schedule.scales(t, x)
            return target(objective, *estimates("eps", labelled(x, t, y), x, a, s), a, s)

        return Fake(output)

    found = [torch.stack(guided(network(name), schedule, y, name, 1.5)(x, t)) for name in OBJECTIVES]
    assert torch.allclose(found[0], found[1], atol=1e-5) and torch.allclose(found[0], found[2], atol=1e-5)


def test_both_branches_run_as_one_batch_and_one_branch_without_guidance():
    schedule, x, t, y = cosine_schedule(20), torch.randn(5, 4), torch.full((5,), 7), torch.tensor([0, 1, 2, 0, 1])
    fake = Fake(labelled)
    guided(fake, schedule, y, omega=1.0)(x, t)
    assert len(fake.asked) == 1 and fake.asked[0][2].tolist() == [0, 1, 2, 0, 1, 3, 3, 3, 3, 3]
    assert torch.equal(fake.asked[0][0], torch.cat([x, x])) and len(fake.asked[0][1]) == 10
    guided(fake, schedule, y)(x, t)
    assert torch.equal(fake.asked[1][2], y)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_clipping_bounds_x0_and_keeps_the_pair_consistent(objective):
    schedule, x, t = cosine_schedule(20), 3 * torch.randn(50, 4), torch.full((50,), 7)
    y = torch.zeros(50, dtype=torch.long)
    free, _ = guided(Fake(labelled), schedule, y, objective)(x, t)
    x0, eps = guided(Fake(labelled), schedule, y, objective, clip=0.5)(x, t)
    a, s = schedule.scales(t, x)
    assert free.abs().max() > 0.5 and torch.equal(x0, free.clamp(-0.5, 0.5))
    assert torch.allclose(a * x0 + s * eps, x, atol=1e-5)


# ------------------------------------------------------------------------------------------------------------- samplers
def test_ddim_steps_fall_from_the_last_to_near_the_first():
    assert ddim_steps(1000, 4) == [999, 749, 499, 249] and ddim_steps(10, 10) == list(range(9, -1, -1))
    assert ddim_steps(10, 3) == [9, 6, 2] and ddim_steps(1000, 1) == [999]
    for steps in range(1, 38):
        times = ddim_steps(37, steps)
        assert len(times) == steps and times[0] == 36 and times[-1] >= 0
        assert all(first > second for first, second in zip(times[:-1], times[1:], strict=True))


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_impossible_numbers_of_steps_are_refused(steps):
    with pytest.raises(CourseError, match=f"1000 steps can be sampled in 1 to 1000 steps, not {steps}"):
        ddim_steps(1000, steps)


def test_unknown_variance_is_refused():
    with pytest.raises(CourseError, match="Unknown variance 'fixedlarge'.*posterior, beta"):
        ancestral(lambda x, t: (x, x), linear_schedule(10), torch.zeros(1, 1), "fixedlarge")


def test_samplers_call_the_network_once_per_step_with_that_step():
    asked = []

    def predict(x, t):
        asked.append(t)
        return torch.zeros_like(x), x

    ddim(predict, linear_schedule(100), torch.randn(3, 2), steps=4)
    assert [t.tolist() for t in asked] == [[99] * 3, [74] * 3, [49] * 3, [24] * 3]
    asked.clear()
    ancestral(predict, linear_schedule(6), torch.randn(3, 2))
    assert [t.tolist() for t in asked] == [[t] * 3 for t in (5, 4, 3, 2, 1, 0)]


def net():
    torch.manual_seed(0)
    return Fake(labelled).train()


def test_samples_repeat_with_their_seed_in_any_batch_and_restore_the_mode():
    labels, schedule, model = torch.arange(10) % 3, cosine_schedule(50), net()
    draw = dict(shape=(4,), steps=5)
    first = sample(model, schedule, labels, **draw)
    assert first.shape == (10, 4) and first.dtype == torch.float32 and model.training and not first.requires_grad
    assert torch.equal(first, sample(model, schedule, labels, **draw))
    assert torch.allclose(first, sample(model, schedule, labels, batch_size=3, **draw), atol=1e-6)
    assert not torch.allclose(first, sample(model, schedule, labels, seed=1, **draw), atol=0.1)
    assert not torch.allclose(first, sample(model, schedule, labels, eta=1.0, **draw), atol=0.1)
    noisy = sample(model, schedule, labels, eta=1.0, **draw)
    assert torch.equal(noisy, sample(model, schedule, labels, eta=1.0, **draw))
    torch.manual_seed(123)
    before = torch.get_rng_state()
    sample(model, schedule, labels, eta=1.0, **draw)
    assert torch.equal(before, torch.get_rng_state())  # drawing samples does not disturb what else is random


def test_sampling_runs_in_evaluation_mode_and_starts_from_the_noise_of_the_seed():
    class Watch(Fake):
        def forward(self, x, t, y):
            assert not self.training and not torch.is_grad_enabled()
            return super().forward(x, t, y)

    model = Watch(labelled)
    sample(model, cosine_schedule(50), torch.zeros(6, dtype=torch.long), (4,), steps=2, seed=5)
    assert torch.equal(model.asked[0][0], torch.randn((6, 4), generator=torch.Generator().manual_seed(5)))


def test_no_label_no_sample():
    assert sample(net(), cosine_schedule(50), torch.zeros(0, dtype=torch.long), (4,), steps=2).shape == (0, 4)


@pytest.mark.parametrize("label", [-1, 4, 100])
def test_a_label_that_the_network_does_not_know_is_refused(label):
    labels = torch.tensor([0, 3, label])
    with pytest.raises(CourseError, match=f"Label {label} is none of this network's 3 classes"):
        check_labels(labels, no_label=3)
    check_labels(torch.tensor([0, 2, 3]), no_label=3)  # the last: no label
    check_labels(torch.tensor([], dtype=torch.int64), no_label=3)
