"""Diffusion on features: the scale of each dimension, a generator that is trained and draws, and an exact denoiser.

Schedule, objective, loss and sampler are those of the images (lt_utils.diffusion), unchanged; a feature [D] takes
the place of an image [C, H, W].
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from lt_utils import hashing
from lt_utils.data.longtail import check_labels
from lt_utils.diffusion.generate import edited, sample
from lt_utils.diffusion.losses import diffusion_loss
from lt_utils.diffusion.schedules import Schedule, cosine_schedule
from lt_utils.errors import CourseError
from lt_utils.models.feature_denoisers import ResidualMLP
from lt_utils.training import checkpoints
from lt_utils.training.devices import autocast, device
from lt_utils.training.ema import EMA
from lt_utils.training.loop import train_to_end
from lt_utils.training.lr_schedules import cosine


class Standardiser:
    """x = (f - mean) / std for each dimension, and back. A dimension that never changes keeps std = 1."""

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        self.mean, self.std = mean, torch.where(std > 1e-6, std, torch.ones_like(std))

    @classmethod
    def fit(cls, features: Tensor) -> "Standardiser":
        """Mean and standard deviation of each dimension of features [N, D]."""
        return cls(features.mean(0), features.std(0, correction=0))

    def __call__(self, features: Tensor) -> Tensor:
        """Features [..., D] with mean 0 and standard deviation 1."""
        return (features - self.mean) / self.std

    def inverse(self, x: Tensor) -> Tensor:
        """Back to the scale of the features, [..., D]."""
        return x * self.std + self.mean


@dataclass(frozen=True)
class FeatureGenerator:
    """A trained feature diffusion: denoiser (moving average), scale of the features, schedule, and precision of drawing."""

    model: ResidualMLP
    scale: Standardiser
    schedule: Schedule
    precision: str = "fp32"

    def generate(
        self, labels: Tensor, *, omega: float = 0.0, steps: int = 50, seed: int = 0, batch_size: int = 4096
    ) -> Tensor:
        """A feature for each of `labels` [N], float32 [N, D], by DDIM in `steps` steps with guidance strength omega."""
        if not len(labels):
            return self.scale.mean.new_zeros(0, len(self.scale.mean))
        options = dict(steps=steps, omega=omega, seed=seed, batch_size=batch_size)
        with autocast(self.scale.mean.device, self.precision):
            x = sample(self.model, self.schedule, labels, (len(self.scale.mean),), **options)
        return self.scale.inverse(x)

    def edit(
        self, features: Tensor, labels: Tensor, t: int, *, omega: float = 0.0, steps: int = 25, seed: int = 0
    ) -> Tensor:
        """Features [N, D] noised to step t and denoised under other `labels` [N], [N, D], as `generate.edited` does it."""
        with autocast(self.scale.mean.device, self.precision):
            how = dict(steps=steps, omega=omega, seed=seed, batch_size=4096)
            return self.scale.inverse(edited(self.model, self.schedule, self.scale(features), labels, t, **how))

    def save(self, path: str | Path, **facts) -> None:
        """Write the denoiser and, among its facts, the scale, the length of the schedule and the precision."""
        numbers = {"mean": self.scale.mean.tolist(), "std": self.scale.std.tolist(), "T": len(self.schedule)}
        checkpoints.save_model(path, self.model, **numbers, precision=self.precision, **facts)


def load_generator(path: str | Path) -> FeatureGenerator:
    """The generator that `FeatureGenerator.save` wrote, on the accelerator (or CPU). CourseError if it is none."""
    model, facts = checkpoints.load_model(path, ResidualMLP, device())
    if "mean" not in facts:
        raise CourseError(f"{path} holds a denoiser without the scale of its features: train the generator again.")
    mean, std = (torch.tensor(facts[name], device=device()) for name in ("mean", "std"))
    precision = facts.get("precision", "fp32")  # generators of earlier states of the course do not say
    return FeatureGenerator(model, Standardiser(mean, std), cosine_schedule(facts["T"]), precision)


def train_feature_diffusion(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    *,
    steps: int,
    width: int = 256,
    blocks: int = 4,
    batch_size: int = 256,
    lr: float = 1e-3,
    ema_decay: float = 0.99,
    label_dropout: float = 0.1,
    seed: int = 0,
    precision: str = "fp32",
    checkpoint: str | Path | None = None,
    title: str = "",
) -> FeatureGenerator:
    """Train a diffusion model on features [N, D] with labels [N] and return the generator with the moving average.

    Standardised features, v objective, cosine schedule with T = 1000, AdamW with a cosine rate; a label is dropped with
    probability `label_dropout`, for guidance. `precision` "auto" is about twice as fast as "fp32" where the processor has
    bfloat16. Goes on from `checkpoint` if that is there, as `loop.train` does. CourseError for a label that is none of
    0 .. num_classes - 1: it would be trained as "no label".
    """
    if num_classes:
        check_labels(labels, len(features), num_classes)
    scale, schedule = Standardiser.fit(features), cosine_schedule(1000)
    x0 = scale(features)
    torch.manual_seed(seed)
    model = ResidualMLP(features.shape[1], num_classes, width, blocks).to(features.device)
    average = train_to_end(
        model,
        lambda model, index: diffusion_loss(model, schedule, x0[index], labels[index], "v", label_dropout),
        title=title or f"feature diffusion, seed {seed}",
        unit="features",
        n=len(x0),
        steps=steps,
        batch_size=batch_size,
        optimizer=torch.optim.AdamW(model.parameters(), lr),
        lr_schedule=cosine,
        seed=seed,
        ema=EMA(model, ema_decay),
        precision=precision,
        checkpoint=checkpoint,
        recipe=f"features {hashing.data_key(features, labels)}, dropout {label_dropout:g}, {precision}",
    )
    return FeatureGenerator(average, scale, schedule, precision)


class GaussianDenoiser(nn.Module):
    """The best possible denoiser, in closed form, if the features of class c are Gaussian: N(mean_c, covariance).

    For x_t = a x_0 + s eps the posterior mean is E[x_0 | x_t, c] = m_c + a S (a^2 S + s^2 I)^-1 (x_t - a m_c). It needs
    no training and has the interface of a denoiser with the objective "x0". What DDIM draws with it has this mean and
    covariance, up to the error of finitely many steps. It knows no "no label" answer, so it cannot be guided.

    Args: means [C, D]; covariance [D, D], symmetric, shared by the classes; schedule.
    """

    def __init__(self, means: Tensor, covariance: Tensor, schedule: Schedule) -> None:
        super().__init__()
        self.no_label, self.schedule = len(means), schedule
        # In float64, which Apple's MPS does not have: there the CPU does it.
        means, covariance = (one.cpu() if one.device.type == "mps" else one for one in (means, covariance))
        values, vectors = torch.linalg.eigh(covariance.double())
        self.means = nn.Parameter(means.double(), requires_grad=False)
        self.register_buffer("values", values.clamp(min=0))
        self.register_buffer("vectors", vectors)

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        where, kind, x, t, y = x.device, x.dtype, *(one.to(self.means.device) for one in (x, t, y))
        a, s = self.schedule.scales(t, x.double())  # [B, 1]
        # In the eigenvectors of S the matrix above is diagonal: a v / (a^2 v + s^2) for each eigenvalue v.
        shift = (x.double() - a * self.means[y]) @ self.vectors  # [B, D]
        gain = a * self.values / (a.square() * self.values + s.square())  # [B, D]
        return (self.means[y] + (gain * shift) @ self.vectors.T).to(where, kind)
