"""The arms of the experiment, measured for one seed: every source with every correction, frozen and in training."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from experiments.feature_gap.crossfit import Ratios, corrected, corrected_views, unseen_ratios, widening
from experiments.feature_gap.joint_training import train_jointly
from lt_utils.data.datasets import ImageData
from lt_utils.data.longtail import group_indices
from lt_utils.diffusion.feature_diffusion import train_feature_diffusion
from lt_utils.features import augmentation
from lt_utils.features.encoding import Encoded
from lt_utils.features.retraining import fit_head
from lt_utils.features.statistics import class_means
from lt_utils.features.views import Views, encode_views
from lt_utils.metrics.recognition import class_accuracy
from lt_utils.models.resnet import encode
from lt_utils.recognition.encoders import train_encoder

HEAD = dict(steps=250, batch_size=512, lr=0.01)
# 300 steps leave the tail of what diffusion draws up to 2.5 times too wide; on the folds of seed 0 (clean views) the
# head then reaches 75.3 %, with 1,500 steps 76.2 % and with 4,000 steps 77.1 %.
GENERATOR = dict(steps=2000, width=128, blocks=3)
FED_STEPS = 300  # of a generator that is fitted anew while the encoder trains
SAMPLING = 25  # DDIM steps
WIDTHS = (1.5, 2.0)
REFIT_EVERY = 3  # epochs, for features added in training
VIEWS = {"clean": 1, "strong": 4}  # kind: views of an image
ASIS, CROSSFIT, WIDENED = "as they are", "cross-fit", "widened"
NONE, DIFFUSION, SPREAD_OUT = "No generation", "Diffusion", "Diffusion, omega -0.3"
CONTROLS: dict[str, augmentation.Source] = {
    NONE: augmentation.none_added,
    "Resampled real": augmentation.resampled_real,
    "Class Gaussian": augmentation.class_gaussian,
    "Head-tail mixing": augmentation.mixed_with_head,
}
FED = ("Resampled real", "Class Gaussian")  # controls of what is added in training
WIDE = ("Resampled real", "Class Gaussian", DIFFUSION)  # head-tail mixing widens by itself
Arm = tuple[str, str, str]  # features, method, correction


def diffusion(
    features: Tensor, labels: Tensor, amounts: Sequence[int], seed: int = 0, omega: float = 0.0, **options
) -> tuple[Tensor, Tensor]:
    """A source: feature diffusion trained on features [N, D] with labels [N], and amounts[c] draws of each class c."""
    generator = train_feature_diffusion(features, labels, len(amounts), seed=seed, **(GENERATOR | options))
    return augmentation.from_generator(generator, omega=omega, steps=SAMPLING)(features, labels, amounts, seed)


@dataclass(frozen=True)
class Stage:
    """All that a head is fitted and tested on: an encoder's features, views, ratios, and features of every source."""

    encoded: Encoded
    views: Views
    ratios: Ratios
    added: dict[str, tuple[Tensor, Tensor]]
    counts: list[int]
    seed: int

    def logits(self, method: str, correction: str, width: float = 1.0) -> Tensor:
        """Balanced logits [N, C] on the test slot of a head that was fitted with the added features of `method`."""
        views, (features, labels) = self.views, self.added[method]
        ratios = self.ratios if correction == CROSSFIT else widening(self.counts, width, features.device)
        means = class_means(*views.flat, len(self.counts))
        if correction == CROSSFIT:
            views = corrected_views(views, ratios)
        added = (corrected(features, labels, ratios, means), labels)
        tau = 1.0 if method == NONE else 0.0
        head = fit_head(views, self.encoded, added=added, tau=tau, seed=self.seed, **HEAD).head
        with torch.no_grad():
            return head(self.encoded.test)


def stage(encoded: Encoded, views: Views, ratios: Ratios, counts: list[int], seed: int, path: Path) -> Stage:
    """Fit every source on the views and let it fill up the classes; `path`: of the generator's checkpoint."""
    made = CONTROLS | {
        DIFFUSION: partial(diffusion, checkpoint=path, title=path.stem),
        SPREAD_OUT: partial(diffusion, checkpoint=path, title=path.stem, omega=-0.3),
    }
    amounts = augmentation.topup_amounts(encoded.counts)
    added = {name: source(*views.flat, amounts, seed=seed) for name, source in made.items()}
    return Stage(encoded, views, ratios, added, counts, seed)


def balanced_accuracy(logits: Tensor, labels: Tensor) -> float:
    """Mean over the classes of the accuracy in percent."""
    return round(class_accuracy(logits, labels).mean().item(), 2)


def frozen_rows(
    final: Encoded, folds: list[Encoded], kind: str, seed: int, file: Callable[[str], Path]
) -> tuple[dict[Arm, tuple[Tensor, float, float]], list[dict]]:
    """Test logits, balanced accuracy on the folds and width of every method and correction on one kind of views; and
    the ratios measured on the folds, beside those of the test set, which nothing uses."""
    names = [f"seed{seed}", *(f"seed{seed}-without-fold{k}" for k in range(len(folds)))]
    everyone, counts = [final, *folds], final.counts
    all_views = [
        encode_views(one, kind, VIEWS[kind], seed, file(f"views-{kind}-{name}"))
        for name, one in zip(names, everyone, strict=True)
    ]
    pairs = list(zip(all_views[1:], folds, strict=True))
    ratios = unseen_ratios(pairs, counts)
    # What is tried on a fold knows the ratios of the other folds only, as the final encoder knows none of the test set.
    others = [unseen_ratios(pairs[:k] + pairs[k + 1 :], counts) for k in range(len(pairs))]
    stages = [
        stage(one, views, ratio, counts, seed, file(f"diffusion-{kind}-{name}"))
        for name, one, views, ratio in zip(names, everyone, all_views, [ratios, *others], strict=True)
    ]
    labels = torch.cat([one.test_labels for one in folds])

    def on_folds(*arm) -> float:
        return balanced_accuracy(torch.cat([one.logits(*arm) for one in stages[1:]]), labels)

    found = {}
    for method in stages[0].added:
        for correction in (ASIS,) if method == SPREAD_OUT else (ASIS, CROSSFIT):
            found[kind, method, correction] = (stages[0].logits(method, correction), on_folds(method, correction), 1.0)
        if method in WIDE:
            by_width = {width: on_folds(method, WIDENED, width) for width in WIDTHS}
            best = max(WIDTHS, key=by_width.get)
            found[kind, method, WIDENED] = (stages[0].logits(method, WIDENED, best), by_width[best], best)
        print(f"{kind} views, seed {seed}: {method} measured", flush=True)
    on_test = unseen_ratios([(all_views[0], final)], counts)
    table = [
        {
            "features": kind,
            "seed": seed,
            "group": group,
            "length": round(ratios.length[c[0]].item(), 3),
            "length test": round(on_test.length[c[0]].item(), 3),
            "spread": round(ratios.spread[c[0]].item(), 3),
            "spread test": round(on_test.spread[c[0]].item(), 3),
        }
        for group, c in group_indices(counts).items()
    ]
    return found, table


def trained_rows(data: ImageData, epochs: int, seed: int, file: Callable[[str], Path]) -> dict[Arm, Tensor]:
    """Test logits of encoders whose head is fed while they train, and of one with the prior inside its loss."""
    found, how = {}, dict(epochs=epochs, seed=seed)
    made = {name: CONTROLS[name] for name in FED} | {
        DIFFUSION: partial(diffusion, steps=FED_STEPS, title="diffusion on the current features")
    }
    model = train_encoder(data, "logit-adjusted", alpha=0.5, checkpoint=file(f"balanced-encoder-seed{seed}"), **how)
    found["in training", NONE, "-"] = encode(model, data.test_images)[1]
    for name, source in made.items():
        path = file(f"fed-{name.split()[0].lower()}-seed{seed}")
        model = train_jointly(data, source, every=REFIT_EVERY, checkpoint=path, name=name, **how)
        found["in training", name, "-"] = encode(model, data.test_images)[1]
    return found
