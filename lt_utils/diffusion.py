"""Diffusion in four small parts, the same for images [B, C, H, W] and for features [B, D].

schedule   how much signal and how much noise x_t holds at step t
denoiser   a network (x_t, t, y) -> output (lt_utils.denoisers)
objective  what that output stands for: the noise ("eps"), the clean data ("x0") or the velocity ("v")
sampler    how to walk from noise to data: ancestral DDPM, or DDIM with any number of steps

Throughout, t counts 0 .. T-1, alpha_bar falls from almost 1 to almost 0, and

    x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps = a x_0 + s eps.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from lt_utils.errors import CourseError, choose

# A prediction maps (x_t, t) to the estimates (x_0, eps); samplers need nothing else.
Prediction = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

OBJECTIVES = ("eps", "x0", "v")


# ----------------------------------------------------------------------------------------------------------- schedules
class Schedule:
    """A noise schedule: alpha_bar, float64 [T], strictly falling inside (0, 1). Raises CourseError otherwise."""

    def __init__(self, alpha_bar: Tensor) -> None:
        alpha_bar = torch.as_tensor(alpha_bar, dtype=torch.float64)
        if not (
            alpha_bar.ndim == 1
            and len(alpha_bar) > 1
            and (alpha_bar.diff() < 0).all()
            and alpha_bar[-1] > 0
            and alpha_bar[0] < 1
        ):
            raise CourseError(
                "A noise schedule is a list of two or more alpha_bar values that fall strictly and stay between 0 and 1."
            )
        self.alpha_bar = alpha_bar
        previous = torch.cat([alpha_bar.new_ones(1), alpha_bar[:-1]])
        self.beta = 1 - alpha_bar / previous
        # Variance of q(x_{t-1} | x_t, x_0), equation 7 of DDPM; 0 at t = 0.
        self.posterior_variance = self.beta * (1 - previous) / (1 - alpha_bar)
        self._tables: dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor]] = {}

    def __len__(self) -> int:
        return len(self.alpha_bar)

    def __repr__(self) -> str:
        return f"Schedule(T {len(self)}, sum of log alpha_bar {self.alpha_bar.log().sum():.6g})"

    def scales(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """a = sqrt(alpha_bar_t), s = sqrt(1 - alpha_bar_t) for t [B], shaped to multiply `like` [B, ...], in its dtype."""
        # Rounded on the CPU (Apple's MPS has no float64) and copied once: a copy in every step would make a GPU wait.
        key = (t.device, like.dtype)
        if key not in self._tables:
            roots = self.alpha_bar.sqrt(), (1 - self.alpha_bar).sqrt()
            self._tables[key] = tuple(root.to(like.dtype).to(t.device) for root in roots)
        a, s = (table[t].view(-1, *[1] * (like.ndim - 1)) for table in self._tables[key])
        return a, s

    def add_noise(self, x0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """x_t = a x_0 + s eps for data x0 [B, ...], steps t [B] and noise eps [B, ...] (equation 4 of DDPM)."""
        a, s = self.scales(t, x0)
        return a * x0 + s * eps

    def snr(self) -> Tensor:
        """Signal-to-noise ratio alpha_bar / (1 - alpha_bar) of every step, float64 [T]."""
        return self.alpha_bar / (1 - self.alpha_bar)


def linear_schedule(steps: int = 1000, first: float = 1e-4, last: float = 0.02) -> Schedule:
    """beta rises linearly from `first` to `last` (Ho et al. 2020, DDPM)."""
    return Schedule(torch.cumprod(1 - torch.linspace(first, last, steps, dtype=torch.float64), 0))


def cosine_schedule(steps: int = 1000, offset: float = 0.008, largest_beta: float = 0.999) -> Schedule:
    """alpha_bar follows a squared cosine (Nichol & Dhariwal 2021, equation 17), each beta at most `largest_beta`."""
    angle = (torch.arange(steps + 1, dtype=torch.float64) / steps + offset) / (1 + offset) * math.pi / 2
    alpha_bar = torch.cos(angle) ** 2
    beta = (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=largest_beta)
    return Schedule(torch.cumprod(1 - beta, 0))


# ---------------------------------------------------------------------------------------------------------- objectives
def target(objective: str, x0: Tensor, eps: Tensor, a: Tensor, s: Tensor) -> Tensor:
    """What the network should output, all [B, ...]: eps, x_0, or v = a eps - s x_0 (Salimans & Ho 2022)."""
    choose("objective", objective, OBJECTIVES)
    if objective == "v":
        return a * eps - s * x0
    return eps if objective == "eps" else x0


def estimates(objective: str, output: Tensor, x_t: Tensor, a: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """The estimates (x_0, eps) that a network output stands for: x_t = a x_0 + s eps, solved for what is missing."""
    choose("objective", objective, OBJECTIVES)
    if objective == "eps":
        return (x_t - s * output) / a, output
    if objective == "x0":
        return output, (x_t - a * output) / s
    return a * x_t - s * output, s * x_t + a * output


def drop_labels(labels: Tensor, probability: float, no_label: int) -> Tensor:
    """Labels [B], each replaced by `no_label` with `probability`: so one network learns both p(x|y) and p(x)."""
    dropped = torch.rand(labels.shape, device=labels.device) < probability
    return torch.where(dropped, no_label, labels)


def diffusion_loss(
    denoiser: nn.Module,
    schedule: Schedule,
    x0: Tensor,
    labels: Tensor,
    objective: str = "v",
    label_dropout: float = 0.1,
) -> Tensor:
    """Mean squared error of the denoiser on x0 [B, ...] with labels [B] at random steps (equation 14 of DDPM for "eps").

    A label is dropped per sample with probability `label_dropout`, which makes classifier-free guidance possible.
    """
    t = torch.randint(len(schedule), (len(x0),), device=x0.device)
    eps = torch.randn_like(x0)
    a, s = schedule.scales(t, x0)
    output = denoiser(a * x0 + s * eps, t, drop_labels(labels, label_dropout, denoiser.no_label))
    return (output.float() - target(objective, x0, eps, a, s)).square().mean()


# ------------------------------------------------------------------------------------------------------------ guidance
def check_labels(labels: Tensor, no_label: int) -> None:
    """Raise CourseError unless all labels [N] are classes 0 .. no_label - 1, or no_label itself, "no label"."""
    unknown = labels[(labels < 0) | (labels > no_label)]
    if len(unknown) and no_label:  # an unconditional network takes any label
        raise CourseError(
            f"Label {unknown[0]} is none of this network's {no_label} classes: give 0 to {no_label - 1}, or {no_label} for "
            "no label."
        )


def guided(
    denoiser: nn.Module,
    schedule: Schedule,
    labels: Tensor,
    objective: str = "v",
    omega: float = 0.0,
    clip: float | None = None,
) -> Prediction:
    """A prediction for `labels` [B] with classifier-free guidance (Ho & Salimans 2022): o_y + omega (o_y - o_none).

    omega = 0 is no guidance, omega > 0 stresses the label; a "guidance scale" as in diffusers is 1 + omega. As x_0 and
    eps are linear in the output, guiding any of the three objectives is the same. Both branches run as one batch.
    clip: bound |x_0| by this value (1 for images in -1..1); eps is recomputed so that the two stay consistent.
    """

    def predict(x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        if omega:
            nobody = torch.full_like(labels, denoiser.no_label)
            both = denoiser(torch.cat([x_t, x_t]), torch.cat([t, t]), torch.cat([labels, nobody]))
            conditional, unconditional = both.to(x_t.dtype).chunk(2)
            output = conditional + omega * (conditional - unconditional)
        else:
            output = denoiser(x_t, t, labels).to(x_t.dtype)
        a, s = schedule.scales(t, x_t)
        x0, eps = estimates(objective, output, x_t, a, s)
        if clip is not None:
            x0 = x0.clamp(-clip, clip)
            eps = (x_t - a * x0) / s
        return x0, eps

    return predict


# ------------------------------------------------------------------------------------------------------------ samplers
def ddim_steps(total: int, steps: int) -> list[int]:
    """`steps` values of t, falling from total - 1 in equal strides ("trailing" spacing, Lin et al. 2024).

    Raises CourseError unless 1 <= steps <= total.
    """
    if not 1 <= steps <= total:
        raise CourseError(f"A schedule of {total} steps can be sampled in 1 to {total} steps, not {steps}.")
    return [round(total - i * total / steps) - 1 for i in range(steps)]


@torch.no_grad()
def ddim(
    predict: Prediction,
    schedule: Schedule,
    x: Tensor,
    steps: int = 50,
    eta: float = 0.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """DDIM (Song et al. 2021, equation 12) from noise x [B, ...] to data [B, ...] in `steps` steps.

    eta = 0: deterministic. eta = 1 with all T steps: ancestral sampling with the posterior variance.
    """
    times = ddim_steps(len(schedule), steps)
    alpha_bar = schedule.alpha_bar
    for now, after in zip(times, [*times[1:], None], strict=True):
        abar = float(alpha_bar[now])
        abar_next = float(alpha_bar[after]) if after is not None else 1.0
        x0, eps = predict(x, torch.full((len(x),), now, device=x.device))
        sigma = eta * math.sqrt((1 - abar_next) / (1 - abar) * (1 - abar / abar_next))
        x = math.sqrt(abar_next) * x0 + math.sqrt(max(1 - abar_next - sigma**2, 0)) * eps
        if sigma:
            x = x + sigma * torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
    return x


@torch.no_grad()
def ancestral(
    predict: Prediction,
    schedule: Schedule,
    x: Tensor,
    variance: str = "posterior",
    generator: torch.Generator | None = None,
) -> Tensor:
    """DDPM sampling through all T steps (Ho et al. 2020, algorithm 2) from noise x [B, ...] to data [B, ...].

    variance: "posterior" (that of q(x_{t-1} | x_t, x_0)) or "beta" (the larger choice, beta_t). No noise is added at t = 0.
    """
    choose("variance", variance, ("posterior", "beta"))
    spread = {"posterior": schedule.posterior_variance, "beta": schedule.beta}[variance]
    for t in range(len(schedule) - 1, -1, -1):
        abar, beta = float(schedule.alpha_bar[t]), float(schedule.beta[t])
        before = float(schedule.alpha_bar[t - 1]) if t else 1.0
        x0, _ = predict(x, torch.full((len(x),), t, device=x.device))
        # Posterior mean of q(x_{t-1} | x_t, x_0), equation 7 of DDPM.
        x = (math.sqrt(before) * beta * x0 + math.sqrt(1 - beta) * (1 - before) * x) / (1 - abar)
        if t:
            noise = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
            x = x + math.sqrt(float(spread[t])) * noise
    return x


@torch.no_grad()
def sample(
    denoiser: nn.Module,
    schedule: Schedule,
    labels: Tensor,
    shape: tuple[int, ...],
    *,
    objective: str = "v",
    steps: int = 50,
    eta: float = 0.0,
    omega: float = 0.0,
    clip: float | None = None,
    seed: int = 0,
    batch: int = 256,
) -> Tensor:
    """DDIM samples [N, *shape], float32, one for each of `labels` [N], in evaluation mode, in batches of `batch`.

    The start noise comes from a CPU generator with `seed`, so the same seed starts from the same noise on every device.
    Raises CourseError for a label that the network does not know.
    """
    check_labels(labels, denoiser.no_label)
    was_training = denoiser.training
    denoiser.eval()
    device = next(denoiser.parameters()).device
    start = torch.randn((len(labels), *shape), generator=torch.Generator().manual_seed(seed))
    generator = torch.Generator(device).manual_seed(seed + 1)
    parts = []
    for noise, part in zip(start.split(batch), labels.split(batch), strict=True):
        predict = guided(denoiser, schedule, part.to(device), objective, omega, clip)
        parts.append(ddim(predict, schedule, noise.to(device), steps, eta, generator))
    denoiser.train(was_training)
    return torch.cat(parts)
