"""How close generated features come to real ones: ours and the peer of latent.py, after the same seconds of training.

    python -m benchmarks.fidelity [--seconds 20] [--samples 72] [--width 8] [--epochs 3]

Real features are those of a small encoder (ResNet-8) trained here for a few epochs on the balanced bundled data: 4 x width
numbers for each training image. Each side learns from them and draws the same number of features, the same number of each
class, for two measures: the Fréchet distance to the real ones, all standardised by the mean and deviation of the real
ones; and how often the encoder's own head, which was trained on real ones, gives a drawn feature the label it was drawn
for. The first row says what real features of new images get, in the same number: one draw, which chance moves by about a third.

The peer is Unet1D and GaussianDiffusion1D at LDMLR's settings (latent.py), made a fair opponent in three ways. It knows no
labels: a class embedding is added to its time embedding, as LDMLR does. It clamps samples to 0..1: its features are
divided by the largest of each dimension, where LDMLR cuts them off. And it learns with Adam at our rate, where LDMLR
uses plain SGD at 1e-4.
"""

import argparse
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from benchmarks.latent import SAMPLE_STEPS, TRAIN_BATCH, peer_diffusion
from benchmarks.measure import report
from course.command import first_line
from lt_utils.data.datasets import load
from lt_utils.diffusion.feature_diffusion import FeatureGenerator, Standardiser
from lt_utils.diffusion.losses import diffusion_loss
from lt_utils.diffusion.schedules import cosine_schedule
from lt_utils.features.encoding import Encoded, encode_data
from lt_utils.metrics.generation import frechet_distance
from lt_utils.metrics.recognition import accuracy
from lt_utils.models.feature_denoisers import ResidualMLP
from lt_utils.recognition.encoders import build_encoder, encoder_loss
from lt_utils.training.ema import EMA
from lt_utils.training.loop import batch_of, steps_per_epoch, train
from lt_utils.training.lr_schedules import cosine

RATE = 1e-3
Draw = Callable[[Tensor], Tensor]  # labels [N] -> features [N, D]


def real_features(width: int, epochs: int) -> Encoded:
    """Features of the balanced bundled data by a ResNet-8 trained for `epochs`, with its head."""
    data, batch = load(), 128
    model = build_encoder(data, width=width)
    data = data.to(model.conv1.weight.device)
    steps = epochs * steps_per_epoch(len(data.train_labels), batch)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
    loop = train(
        model,
        encoder_loss("ce", data),
        n=len(data.train_labels),
        steps=steps,
        batch_size=batch,
        optimizer=optimizer,
        lr_schedule=cosine,
    )
    for _ in loop:
        pass
    return encode_data(model.eval(), data)


def train_ours(data: Encoded) -> Iterator[tuple[int, Draw]]:
    """Train the course's feature diffusion; yield, after each step, the features seen and how to draw at this point."""
    scale, schedule = Standardiser.fit(data.train), cosine_schedule()
    x0, labels = scale(data.train), data.train_labels
    torch.manual_seed(0)
    model = ResidualMLP(data.dim, data.num_classes).to(x0.device)
    ema = EMA(model, 0.99)
    draw = FeatureGenerator(ema.model, scale, schedule).generate
    loop = train(
        model,
        lambda model, index: diffusion_loss(model, schedule, x0[index], labels[index]),
        n=len(x0),
        steps=1_000_000,
        batch_size=TRAIN_BATCH,
        optimizer=torch.optim.AdamW(model.parameters(), RATE),
        ema=ema,
        precision="fp32",
    )
    for step in loop:
        yield step.images, lambda wanted: draw(wanted, steps=SAMPLE_STEPS)


class WithLabels(nn.Module):
    """The peer's time embedding plus an embedding of `labels` [B], which are set before each call."""

    def __init__(self, time_mlp: nn.Sequential, classes: int) -> None:
        super().__init__()
        self.time_mlp, self.table = time_mlp, nn.Embedding(classes, time_mlp[-1].out_features)
        self.labels = torch.empty(0)

    def forward(self, t: Tensor) -> Tensor:
        return self.time_mlp(t) + self.table(self.labels)


def train_peer(data: Encoded, steps: int = 1000) -> Iterator[tuple[int, Draw]]:
    """The same for the peer; `steps` is the length of its diffusion and of its ancestral sampling."""
    torch.manual_seed(0)
    diffusion = peer_diffusion(data.dim, steps)
    model = diffusion.model
    model.time_mlp = condition = WithLabels(model.time_mlp, data.num_classes)
    where = data.train.device
    diffusion.to(where)
    largest = data.train.amax(0).clamp(min=1e-6)
    optimizer = torch.optim.Adam(diffusion.parameters(), RATE)

    @torch.no_grad()
    def draw(wanted: Tensor) -> Tensor:
        condition.labels = wanted
        x = torch.randn(len(wanted), 1, data.dim, device=where)
        for t in reversed(range(steps)):
            x, _ = diffusion.p_sample(x, t)
        return diffusion.unnormalize(x)[:, 0] * largest

    seen = 0
    for number in range(1_000_000):
        index = batch_of(number, len(data.train), TRAIN_BATCH, seed=0).to(where)
        condition.labels = data.train_labels[index]
        optimizer.zero_grad()
        diffusion((data.train[index] / largest)[:, None]).backward()
        optimizer.step()
        seen += len(index)
        yield seen, draw


def until(training: Iterator[tuple[int, Draw]], *, seconds: float = float("inf"), seen: float = float("inf")):
    """Train until `seconds` have passed or that many features were seen; return (features seen, seconds, draw)."""
    begin = time.perf_counter()
    for done, draw in training:
        passed = time.perf_counter() - begin
        if passed >= seconds or done >= seen:
            training.close()
            return done, passed, draw
    raise RuntimeError("the training ended before the measurement")


def closeness(data: Encoded, features: Tensor, labels: Tensor) -> dict[str, float]:
    """Fréchet distance of `features` [N, D] to the real training features, standardised, and head accuracy in percent."""
    scale = Standardiser.fit(data.train)
    with torch.no_grad():
        right = accuracy(data.head(features), labels)
    return {"frechet": frechet_distance(scale(data.train), scale(features)), "accuracy": right}


def compare(data: Encoded, seconds: float, samples: int, steps: int = 1000) -> list[dict]:
    """One row for real features of new images, ours and the peer: features seen, seconds, Fréchet distance, accuracy."""
    wanted = torch.arange(samples, device=data.train.device) % data.num_classes
    members = [(data.test_labels == c).nonzero()[:, 0] for c in range(data.num_classes)]
    new = torch.stack([members[c][place // data.num_classes] for place, c in enumerate(wanted.tolist())])
    rows = [{"name": "real, new images", **closeness(data, data.test[new], wanted)}]
    peer_seen, peer_seconds, peer_draw = until(train_peer(data, steps), seconds=seconds)
    trained = (
        ("ours, equal time", *until(train_ours(data), seconds=seconds)),
        ("ours, as many features as the peer", *until(train_ours(data), seen=peer_seen)),
        ("peer, with labels", peer_seen, peer_seconds, peer_draw),
    )
    for name, seen, passed, draw in trained:
        torch.manual_seed(0)
        rows.append({"name": name, "seen": seen, "seconds": passed, **closeness(data, draw(wanted), wanted)})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=first_line(__doc__))
    parser.add_argument("--seconds", type=float, default=20, help="of training, for each side")
    parser.add_argument("--samples", type=int, default=72, help="more than 4 x width")
    parser.add_argument("--width", type=int, default=8, help="of the encoder; a feature has 4 x width numbers")
    parser.add_argument("--epochs", type=int, default=3, help="of the encoder")
    options = parser.parse_args()
    data = real_features(options.width, options.epochs)
    rows = compare(data, options.seconds, options.samples)
    report({"dim": data.dim, "samples": options.samples, "epochs": options.epochs, "rows": rows})


if __name__ == "__main__":
    main()
