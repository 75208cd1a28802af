"""DPM-Solver++: equal to diffusers' scheduler, to DDIM in order 1, of the order it claims, and exact on a Gaussian."""

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler

from lt_utils.diffusion.feature_diffusion import GaussianDenoiser
from lt_utils.diffusion.generate import sample
from lt_utils.diffusion.samplers import ddim, ddim_steps, guided
from lt_utils.diffusion.schedules import cosine_schedule, linear_schedule
from lt_utils.diffusion.solvers import dpm_solver
from lt_utils.errors import CourseError
from lt_utils.models.feature_denoisers import ResidualMLP


def curved(schedule):
    """A prediction that bends with x and t, as a network's does; float64."""

    def predict(x, t):
        a, s = schedule.scales(t, x)
        x0 = torch.tanh(a * x) * (1 + 0.3 * torch.sin(t.double() / 170))[:, None]
        return x0, (x - a * x0) / s

    return predict


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # of the peer
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("steps", [5, 8, 14, 15, 25])
def test_it_equals_diffusers(order, steps):
    schedule = linear_schedule()
    peer = DPMSolverMultistepScheduler(
        trained_betas=schedule.beta.numpy(),
        solver_order=order,
        prediction_type="sample",
        timestep_spacing="trailing",
        final_sigmas_type="zero",
    )
    peer.set_timesteps(steps)
    assert peer.timesteps.tolist() == ddim_steps(1000, steps)
    start = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    predict, x = curved(schedule), start
    for t in peer.timesteps:
        x0, _ = predict(x, torch.full((6,), int(t)))
        x = peer.step(x0, t, x).prev_sample
    # the peer computes its table of noise levels in float32
    assert torch.allclose(dpm_solver(predict, schedule, start, steps, order), x, atol=2e-5)


@pytest.mark.parametrize("steps", [1, 7, 50])
def test_order_one_is_ddim(steps):
    schedule, start = cosine_schedule(), torch.randn(5, 3, dtype=torch.float64)
    predict = curved(schedule)
    assert torch.allclose(dpm_solver(predict, schedule, start, steps, 1), ddim(predict, schedule, start, steps))


def test_a_gaussian_is_reached_in_few_steps():
    """The exact denoiser of N(mean, variance): ten steps of order 2 come nearer than twenty-five of DDIM."""
    schedule, variance = cosine_schedule(), torch.diag(torch.tensor([1.5, 0.05]))
    denoiser = GaussianDenoiser(torch.tensor([[1.0, -2.0]]), variance, schedule)
    start = torch.randn(20_000, 2, generator=torch.Generator().manual_seed(0))
    predict = guided(denoiser, schedule, torch.zeros(len(start), dtype=torch.long), "x0")
    exact = ddim(predict, schedule, start, 1000)
    error = {
        name: (found - exact).square().mean().sqrt().item()
        for name, found in {
            "dpm 10": dpm_solver(predict, schedule, start, 10, 2),
            "dpm 25": dpm_solver(predict, schedule, start, 25, 2),
            "ddim 25": ddim(predict, schedule, start, 25),
        }.items()
    }
    assert error["dpm 25"] < error["dpm 10"] < error["ddim 25"]


@pytest.mark.parametrize(
    ("steps", "order", "told"),
    [
        (10, 4, "orders 1, 2 and 3, not 4"),
        (2, 3, "order 3 needs at least 3 steps, not 2"),
        (1001, 2, "1000 steps can be sampled in 1 to 1000 steps, not 1001"),
    ],
)
def test_what_it_cannot_do_is_refused(steps, order, told):
    with pytest.raises(CourseError, match=told):
        dpm_solver(curved(linear_schedule()), linear_schedule(), torch.zeros(1, 2, dtype=torch.float64), steps, order)


def test_it_is_drawn_with_by_name(tmp_path):
    """sample and sample_to walk with it as the function does; fresh noise it refuses."""
    torch.manual_seed(0)
    model, schedule, labels = ResidualMLP(4, 3, width=16), cosine_schedule(50), torch.arange(3)
    torch.nn.init.normal_(model.out.weight)
    drawn = sample(model, schedule, labels, (4,), sampler="dpm-solver", steps=5, omega=1.0, seed=3)
    start = torch.randn((3, 4), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected = dpm_solver(guided(model, schedule, labels, omega=1.0), schedule, start, steps=5)
    assert torch.equal(drawn, expected)
    assert not torch.allclose(drawn, sample(model, schedule, labels, (4,), steps=5, omega=1.0, seed=3), atol=1e-3)
    model.train()
    with pytest.raises(CourseError, match="adds no fresh noise: leave eta at 0"):
        sample(model, schedule, labels, (4,), sampler="dpm-solver", steps=5, eta=0.5)
    with pytest.raises(CourseError, match="Did you mean 'dpm-solver'"):
        sample(model, schedule, labels, (4,), sampler="dpm_solver", steps=5)
    with pytest.raises(CourseError, match="order 2 needs at least 2 steps, not 1"):
        sample(model, schedule, labels, (4,), sampler="dpm-solver", steps=1)
    assert model.training  # a refusal leaves the network as it was
