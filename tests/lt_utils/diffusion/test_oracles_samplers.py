"""Oracles of the diffusion core: closed forms (Gaussians and mixtures with the exact denoiser) and two other libraries."""

import math

import pytest
import torch
from denoising_diffusion_pytorch import GaussianDiffusion, GaussianDiffusion1D
from diffusers import DDIMScheduler, DDPMScheduler
from torch import nn

from lt_utils.diffusion.generate import sample
from lt_utils.diffusion.losses import OBJECTIVES, estimates, target
from lt_utils.diffusion.samplers import ancestral, ddim, ddim_steps, guided
from lt_utils.diffusion.schedules import cosine_schedule, linear_schedule

PREDICTION = {"eps": "epsilon", "x0": "sample", "v": "v_prediction"}  # diffusers
LUCID = {"eps": "pred_noise", "x0": "pred_x0", "v": "pred_v"}  # denoising_diffusion_pytorch


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def noise(*shape, seed=0):
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


# ---------------------------------------------------------------------------------------------------------- closed forms
MEAN = torch.tensor([1.0, -2.0]).double()
COVARIANCE = torch.tensor([[1.5, 0.6], [0.6, 0.4]]).double()


def exact(schedule, mean=MEAN, covariance=COVARIANCE):
    """The best prediction there is for Gaussian data: E[x_0 | x_t], and the eps that goes with it."""

    def predict(x, t):
        abar = schedule.alpha_bar[t[0]]
        a, s = abar.sqrt(), (1 - abar).sqrt()
        gain = a * covariance @ torch.linalg.inv(a**2 * covariance + s**2 * torch.eye(len(mean), dtype=torch.float64))
        x0 = mean + (x - a * mean) @ gain.T
        return x0, (x - a * x0) / s

    return predict


@pytest.mark.parametrize("schedule", [linear_schedule(), cosine_schedule()], ids=["linear", "cosine"])
@pytest.mark.parametrize("variance", ["posterior", "beta"])
def test_ancestral_sampling_recovers_a_gaussian(schedule, variance):
    x = ancestral(exact(schedule), schedule, noise(5000, 2), variance, generator(1))
    assert torch.allclose(x.mean(0), MEAN, atol=0.06)
    assert torch.allclose(x.T.cov(), COVARIANCE, atol=0.07)


@pytest.mark.parametrize("schedule", [linear_schedule(), cosine_schedule()], ids=["linear", "cosine"])
@pytest.mark.parametrize("eta, steps", [(0.0, 100), (0.5, 200), (1.0, 500)])
def test_ddim_recovers_a_gaussian(schedule, eta, steps):
    x = ddim(exact(schedule), schedule, noise(5000, 2), steps, eta, generator(1))
    assert torch.allclose(x.mean(0), MEAN, atol=0.06)
    assert torch.allclose(x.T.cov(), COVARIANCE, atol=0.07)


@pytest.mark.parametrize("steps", [1, 7, 50, 1000])
def test_deterministic_ddim_is_the_linear_map_of_its_recursion(steps):
    """In one dimension each step multiplies x by a known number, so their product is the whole map."""
    schedule, variance = linear_schedule(), 0.3
    factor, times = 1.0, ddim_steps(1000, steps)
    for now, after in zip(times, [*times[1:], None], strict=True):
        abar = schedule.alpha_bar[now].item()
        following = 1.0 if after is None else schedule.alpha_bar[after].item()
        gain = math.sqrt(abar) * variance / (abar * variance + 1 - abar)
        eps = (1 - math.sqrt(abar) * gain) / math.sqrt(1 - abar)
        factor *= math.sqrt(following) * gain + math.sqrt(1 - following) * eps
    predict = exact(schedule, torch.zeros(1).double(), torch.full((1, 1), variance, dtype=torch.float64))
    x = noise(50, 1)
    assert torch.allclose(ddim(predict, schedule, x, steps), factor * x, rtol=1e-9)
    if steps == 1000:
        assert factor == pytest.approx(math.sqrt(variance), rel=0.01)  # noise to data, with the right variance
    assert torch.equal(ddim(predict, schedule, x, steps), ddim(predict, schedule, x, steps, generator=generator(9)))


@pytest.mark.parametrize("make", [linear_schedule, cosine_schedule])
def test_ddim_with_eta_1_and_all_steps_is_ancestral_sampling(make):
    schedule, x = make(200), noise(30, 2)
    first = ddim(exact(schedule), schedule, x, 200, 1.0, generator(1))
    second = ancestral(exact(schedule), schedule, x, "posterior", generator(1))
    assert torch.allclose(first, second, rtol=1e-8, atol=1e-8)
    assert not torch.allclose(first, ancestral(exact(schedule), schedule, x, "beta", generator(1)), atol=1e-3)


def mixture(schedule, weights, means, deviation):
    """E[x_0 | x_t] for a mixture of Gaussians [K] in one dimension."""

    def predict(x, t):
        abar = schedule.alpha_bar[t[0]]
        a, s = abar.sqrt(), (1 - abar).sqrt()
        spread = a**2 * deviation**2 + s**2
        share = (weights.log() - (x - a * means) ** 2 / (2 * spread)).softmax(1)
        x0 = (share * (means + a * deviation**2 / spread * (x - a * means))).sum(1, keepdim=True)
        return x0, (x - a * x0) / s

    return predict


@pytest.mark.parametrize("method", ["ancestral", "ddim"])
def test_samplers_recover_a_long_tailed_mixture(method):
    schedule = cosine_schedule(200)
    weights, means, deviation = torch.tensor([0.9, 0.1]).double(), torch.tensor([-1.0, 2.0]).double(), 0.25
    predict, start = mixture(schedule, weights, means, deviation), noise(10_000, 1)
    if method == "ancestral":
        x = ancestral(predict, schedule, start, generator=generator(1))
    else:
        x = ddim(predict, schedule, start, 100)
    tail = x > 0.5
    assert tail.double().mean().item() == pytest.approx(0.1, abs=0.01)
    for part, mean in ((x[~tail], -1.0), (x[tail], 2.0)):
        assert part.mean().item() == pytest.approx(mean, abs=0.03)
        assert part.std().item() == pytest.approx(deviation, abs=0.02)


class TwoClasses(nn.Module):
    """Exact denoiser of two Gaussian classes with one covariance; "no label" is a third Gaussian of the same covariance."""

    means = torch.tensor([[1.0, 0.0], [0.0, 3.0], [0.5, 1.0]])
    no_label = 2

    def __init__(self, schedule, objective):
        super().__init__()
        self.schedule, self.objective = schedule, objective
        self.anchor = nn.Parameter(torch.zeros(()))

    def forward(self, x, t, y):
        a, s = self.schedule.scales(t, x)
        mean = self.means[y]
        x0 = mean + a * 0.25 / (a**2 * 0.25 + s**2) * (x - a * mean)
        return target(self.objective, x0, (x - a * x0) / s, a, s) + self.anchor


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("omega", [0.0, 1.5])
def test_guided_samples_of_gaussian_classes_have_the_guided_mean(objective, omega):
    """With one covariance, guidance moves the mean to m_y + omega (m_y - m_none) and leaves the covariance."""
    schedule = cosine_schedule(200)
    labels = torch.arange(4000) % 2
    x = sample(TwoClasses(schedule, objective), schedule, labels, (2,), objective=objective, steps=100, omega=omega)
    means = TwoClasses.means
    for label in (0, 1):
        expected = means[label] + omega * (means[label] - means[2])
        assert torch.allclose(x[labels == label].mean(0), expected, atol=0.05)
        assert torch.allclose(x[labels == label].T.cov(), 0.25 * torch.eye(2), atol=0.03)


# ------------------------------------------------------------------------------------------------------------- diffusers
class Toy(nn.Module):
    """A smooth nonlinear function in the place of a network, with float64 weights."""

    no_label = 3

    def forward(self, x, t, y):
        return torch.tanh(1.7 * x + 0.002 * t.view(-1, 1)) - 0.3 * x.roll(1, 1) + 0.1 * y.view(-1, 1)


LABELS = torch.tensor([0, 1, 2, 0, 1])


def peer_of(kind, schedule, **options):
    """A diffusers scheduler with exactly our alpha_bar, in float64."""
    peer = kind(num_train_timesteps=len(schedule), beta_schedule="linear", **options)
    assert torch.allclose(peer.alphas_cumprod.double(), linear_schedule(len(schedule), 1e-4, 0.02).alpha_bar, rtol=1e-4)
    peer.alphas_cumprod, peer.final_alpha_cumprod = schedule.alpha_bar, torch.ones((), dtype=torch.float64)
    peer.one = torch.ones((), dtype=torch.float64)
    return peer


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("steps", [1, 4, 50])
@pytest.mark.parametrize("eta", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("clip", [None, 0.8])
def test_ddim_against_diffusers(objective, steps, eta, clip):
    schedule, model, x = cosine_schedule(200), Toy(), noise(5, 3)
    ours = ddim(guided(model, schedule, LABELS, objective, clip=clip), schedule, x, steps, eta, generator(2))
    peer = peer_of(
        DDIMScheduler,
        schedule,
        timestep_spacing="trailing",
        prediction_type=PREDICTION[objective],
        clip_sample=clip is not None,
        clip_sample_range=clip or 1.0,
    )
    peer.set_timesteps(steps)
    assert peer.timesteps.tolist() == ddim_steps(200, steps)
    draws = generator(2)
    for t in peer.timesteps:
        output = model(x, t.expand(5), LABELS)
        x = peer.step(output, t, x, eta, use_clipped_model_output=clip is not None, generator=draws).prev_sample
    assert torch.allclose(ours, x, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("variance, name", [("posterior", "fixed_small"), ("beta", "fixed_large")])
@pytest.mark.parametrize("clip", [None, 0.8])
def test_ancestral_against_diffusers(objective, variance, name, clip):
    schedule, model, x = linear_schedule(60, 1e-4, 0.02), Toy(), noise(5, 3)
    ours = ancestral(guided(model, schedule, LABELS, objective, clip=clip), schedule, x, variance, generator(2))
    peer = peer_of(
        DDPMScheduler,
        schedule,
        variance_type=name,
        prediction_type=PREDICTION[objective],
        clip_sample=clip is not None,
        clip_sample_range=clip or 1.0,
    )
    draws = generator(2)
    for t in peer.timesteps:
        x = peer.step(model(x, t.expand(5), LABELS), t, x, generator=draws).prev_sample
    assert torch.allclose(ours, x, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("total", [10, 1000])
def test_trailing_steps_against_diffusers(total):
    peer = DDIMScheduler(num_train_timesteps=total, timestep_spacing="trailing")
    for steps in range(1, min(total, 130) + 1):
        peer.set_timesteps(steps)
        for number, (theirs, ours) in enumerate(zip(peer.timesteps.tolist(), ddim_steps(total, steps), strict=False)):
            halfway = (
                2 * number * total % steps == 0 and number * total % steps
            )  # there the peer's sums round at random
            assert abs(ours - theirs) <= bool(halfway)


def test_schedules_noise_and_velocity_against_diffusers():
    linear, cosine = DDPMScheduler(), DDPMScheduler(beta_schedule="squaredcos_cap_v2")
    assert torch.allclose(linear.alphas_cumprod.double(), linear_schedule().alpha_bar, rtol=1e-4)
    assert torch.allclose(cosine.alphas_cumprod.double(), cosine_schedule().alpha_bar, rtol=1e-3, atol=1e-9)
    schedule, x0, eps = linear_schedule(), torch.randn(6, 2, 3, 3), torch.randn(6, 2, 3, 3)
    t = torch.tensor([0, 1, 10, 500, 900, 999])
    assert torch.allclose(schedule.add_noise(x0, t, eps), linear.add_noise(x0, eps, t), atol=1e-5)
    a, s = schedule.scales(t, x0)
    assert torch.allclose(target("v", x0, eps, a, s), linear.get_velocity(x0, eps, t), atol=1e-5)


# ----------------------------------------------------------------------------------------------- denoising_diffusion_pytorch
class Lucid(nn.Module):
    """The toy network with the attributes and the [B, 1, L] shape that denoising_diffusion_pytorch asks for."""

    channels = out_dim = 1
    self_condition = random_or_learned_sinusoidal_cond = False

    def forward(self, x, t, x_self_cond=None):
        return Toy()(x[:, 0], t, torch.zeros_like(t))[:, None]


def lucid(objective="eps", schedule="cosine", **options):
    model = Lucid()
    options = dict(seq_length=3, auto_normalize=False) | options
    return GaussianDiffusion1D(model, objective=LUCID[objective], beta_schedule=schedule, **options)


@pytest.mark.parametrize("name, ours", [("linear", linear_schedule()), ("cosine", cosine_schedule())])
def test_schedules_against_denoising_diffusion_pytorch(name, ours):
    peer = lucid(schedule=name)
    assert torch.allclose(peer.alphas_cumprod.double(), ours.alpha_bar, rtol=1e-6)
    assert torch.allclose(peer.betas.double(), ours.beta, rtol=1e-6)
    assert torch.allclose(peer.posterior_variance.double(), ours.posterior_variance, rtol=1e-5, atol=1e-12)
    # Its weight of the x_0 loss is the signal-to-noise ratio, that of v is snr / (snr + 1) = alpha_bar.
    assert torch.allclose(lucid("x0", name).loss_weight.double(), ours.snr(), rtol=1e-5)
    assert torch.allclose(lucid("v", name).loss_weight.double(), ours.alpha_bar, rtol=1e-5)


def test_conversions_against_denoising_diffusion_pytorch():
    class Image(Lucid):
        channels = out_dim = 2

    peer = GaussianDiffusion(Image(), image_size=4, beta_schedule="cosine", auto_normalize=False)
    schedule, x0, eps = cosine_schedule(), torch.randn(5, 2, 4, 4), torch.randn(5, 2, 4, 4)
    t = torch.tensor([0, 3, 100, 500, 900])
    x_t = schedule.add_noise(x0, t, eps)
    a, s = schedule.scales(t, x0)
    assert torch.allclose(x_t, peer.q_sample(x0, t, eps), atol=1e-6)
    v = target("v", x0, eps, a, s)
    assert torch.allclose(v, peer.predict_v(x0, t, eps), atol=1e-6)
    assert torch.allclose(estimates("v", v, x_t, a, s)[0], peer.predict_start_from_v(x_t, t, v), atol=1e-5)
    assert torch.allclose(estimates("eps", eps, x_t, a, s)[0], peer.predict_start_from_noise(x_t, t, eps), atol=1e-3)
    late = t > 0
    ours, theirs = estimates("x0", x0, x_t, a, s)[1], peer.predict_noise_from_start(x_t, t, x0)
    assert torch.allclose(ours[late], theirs[late], atol=1e-3)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_ancestral_against_denoising_diffusion_pytorch(objective):
    peer, schedule = lucid(objective, timesteps=50), cosine_schedule(50)
    torch.manual_seed(4)
    theirs = peer.p_sample_loop((6, 1, 3))[:, 0]
    torch.manual_seed(4)
    start = torch.randn(6, 1, 3)[:, 0]
    ours = ancestral(guided(Toy(), schedule, torch.zeros(6).long(), objective, clip=1.0), schedule, start)
    assert torch.allclose(ours, theirs, atol=1e-4) and theirs.std() > 0.1


@pytest.mark.parametrize("objective", OBJECTIVES[1:])  # for eps it clips x_0 without adapting eps
@pytest.mark.parametrize("eta", [0.0, 0.8])
def test_ddim_against_denoising_diffusion_pytorch(objective, eta):
    peer, schedule = lucid(objective, sampling_timesteps=20, ddim_sampling_eta=eta), cosine_schedule()
    torch.manual_seed(4)
    theirs = peer.ddim_sample((6, 1, 3))[:, 0]
    torch.manual_seed(4)
    start = torch.randn(6, 1, 3)[:, 0]
    ours = ddim(guided(Toy(), schedule, torch.zeros(6).long(), objective, clip=1.0), schedule, start, 20, eta)
    assert torch.allclose(ours, theirs, atol=1e-4) and theirs.std() > 0.1
