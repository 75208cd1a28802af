"""Retraining the classifier on real and added features: LDMLR's stage 3, the course's own, and what the result scores."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from lt_utils.data.longtail import check_labels
from lt_utils.diffusion.feature_diffusion import Standardiser
from lt_utils.errors import CourseError, choose
from lt_utils.features.encoding import Encoded
from lt_utils.features.statistics import class_covariances
from lt_utils.features.views import Views
from lt_utils.metrics.recognition import accuracy, scores
from lt_utils.models.heads import CosineHead, LinearHead
from lt_utils.recognition.losses import label_shift, log_prior
from lt_utils.recognition.semantic import isda_loss, semantic_margins
from lt_utils.training.loop import Step, step_now, steps_per_epoch, train
from lt_utils.training.lr_schedules import cosine


@dataclass(frozen=True)
class Retrained:
    """A retrained head, and its test accuracy in percent after each of `steps`: plain and with label shift."""

    head: nn.Module
    steps: list[int]
    plain: list[float]
    shifted: list[float]


def _watched(training: Iterator[Step], head: nn.Module, data: Encoded, every: int) -> Retrained:
    """Run the training of `head` to its end and note its test accuracy every so many steps and at the last; 0: never."""
    steps, plain, shifted = [], [], []
    for step in training:
        if every and (step.step % every == 0 or step.step == step.total):
            with torch.no_grad():
                logits = head(data.test)
            steps.append(step.step)
            plain.append(accuracy(logits, data.test_labels))
            shifted.append(accuracy(label_shift(logits, data.counts), data.test_labels))
    return Retrained(head.eval(), steps, plain, shifted)


def retrain_head(
    data: Encoded,
    added: Tensor,
    added_labels: Tensor,
    *,
    epochs: int = 400,
    batch_size: int = 1024,
    lr: float = 1e-3,
    weight_decay: float = 1e-5,
    seed: int = 0,
) -> Retrained:
    """LDMLR's stage 3: train a copy of the encoder's head on the real and the added features, the encoder frozen.

    It starts from the trained weights; plain cross-entropy, Adam with a constant rate, no balancing. The head after the
    last epoch is the result. Test accuracies of every epoch are kept only to show what choosing among them would do.

    data: the real features. added [M, D], added_labels [M]: what a source made, M >= 0.
    """
    check_labels(added_labels, len(added), data.num_classes, "added_labels")
    features = torch.cat([data.train, added])
    labels = torch.cat([data.train_labels, added_labels])
    head = copy.deepcopy(data.head).requires_grad_(True)
    in_epoch = steps_per_epoch(len(features), batch_size)
    loop = train(
        head,
        lambda head, index: F.cross_entropy(head(features[index]), labels[index]),
        n=len(features),
        steps=epochs * in_epoch,
        batch_size=batch_size,
        optimizer=torch.optim.Adam(head.parameters(), lr, weight_decay=weight_decay),
        seed=seed,
        precision="fp32",
    )
    return _watched(loop, head, data, every=in_epoch)


def test_scores(head: nn.Module, data: Encoded) -> dict[str, dict[str, float]]:
    """Scores of a head on the test features, {"plain": ..., "label shift": ...}, each as `recognition.scores` gives them.

    Label shift uses the original training counts, also after features were added, as LDMLR does.
    """
    with torch.no_grad():
        logits = head(data.test)
    both = {"plain": logits, "label shift": label_shift(logits, data.counts)}
    return {test: scores(values, data.test_labels, data.counts) for test, values in both.items()}


test_scores.__test__ = False  # a function to use, not one that pytest should collect


def result_rows(retrained: Retrained, encoded: Encoded, /, **columns) -> list[dict]:
    """Two rows for a record, tested plain and with label shift: the scores of the last epoch and, beside them, the
    accuracy of the best test epoch, "best_test_epoch" (the paper's protocol: chosen on the test set, for each test).

    retrained: what `retrain_head` returns, or `fit_head` with watch > 0.
    """
    best = {"plain": max(retrained.plain), "label shift": max(retrained.shifted)}
    return [
        {**columns, "test": test, **values, "best_test_epoch": round(best[test], 2)}
        for test, values in test_scores(retrained.head, encoded).items()
    ]


class StandardisedHead(nn.Module):
    """A head behind a fixed scale: features [B, D], each dimension with mean 0 and standard deviation 1, to logits."""

    def __init__(self, scale: Standardiser, head: nn.Module) -> None:
        super().__init__()
        self.register_buffer("mean", scale.mean)
        self.register_buffer("std", scale.std)
        self.head = head

    def forward(self, features: Tensor) -> Tensor:
        return self.head((features - self.mean) / self.std)


def start_linear(head: nn.Linear, scale: Standardiser, minus_log_prior: Tensor | float = 0.0) -> LinearHead:
    """The head on standardised features that gives the logits of `head` on plain ones, minus `minus_log_prior` [C]."""
    if not isinstance(head, nn.Linear):
        raise CourseError(f"A {type(head).__name__} cannot be the start of a linear head: choose head='cosine'.")
    start = LinearHead(head.in_features, head.out_features).to(head.weight.device)
    with torch.no_grad():
        start.weight.copy_(head.weight * scale.std)
        start.bias.copy_(head.bias + head.weight @ scale.mean - minus_log_prior)
    return start


def fit_head(
    views: Views,
    encoded: Encoded,
    *,
    added: tuple[Tensor, Tensor] | None = None,
    kind: str = "linear",
    tau: float = 1.0,
    start_tau: float | None = None,
    mixup: float = 0.0,
    anchor: float = 0.0,
    semantic: float = 0.0,
    steps: int = 1500,
    batch_size: int = 1024,
    lr: float = 3e-3,
    seed: int = 0,
    watch: int = 0,
) -> Retrained:
    """Fit a head on views of the training images and, if given, on added features; the encoder stays frozen.

    Loss: cross-entropy of logits + tau log(n_c / N) (Menon et al. 2021). The logits are then balanced: test them as they
    are. A step draws from all N images and M added features alike; of an image one of its views, at random.

    Args:
        added: features [M, D] and labels [M] of a source. If they balance the classes (top-up), use tau = 0.
        kind: "linear", which starts from the encoder's own head (with tau = 1 from label shift), or "cosine", which
            starts at random with scale 16.
        start_tau: where a linear head starts, if not at `tau`: 0 the encoder's own head, 1 label shift.
        mixup: alpha of Beta(alpha, alpha) for mixing the features of a batch, labels and all; 0: none.
        anchor: weight of the squared distance to the start, summed over all weights (kind "linear").
        semantic: strength that ISDA's expected loss (`isda_loss`) has at the end, growing evenly from 0 (kind "linear");
            the covariances are those of `class_covariances`, of views that are not mixed.
        watch: note the test accuracy every so many steps, to show what choosing a step on the test set would do; 0: never.

    Adam with a cosine rate; every draw depends on `seed`. The head after the last step is the result.
    """
    choose("kind of head", kind, ("linear", "cosine"))
    if semantic and (kind != "linear" or mixup):
        raise CourseError("The expected loss of semantic directions needs a linear head and no mixup: leave one out.")
    if kind == "cosine" and start_tau is not None:
        raise CourseError("start_tau is where a linear head starts; a cosine head starts at random: leave it out.")
    classes, n, rounds = encoded.num_classes, len(views.labels), len(views.features)
    added_features, added_labels = added if added is not None else (views.features[0, :0], views.labels[:0])
    check_labels(added_labels, len(added_features), classes, "the labels of added")
    # All that a step can draw, in one row: every view of image 0 .. N-1, view after view, then the added features.
    pool = torch.cat([views.features.flatten(0, 1), added_features])  # [K N + M, D]
    first = torch.cat([views.labels.repeat(rounds), added_labels])
    second = torch.cat([views.partner_labels.flatten(), added_labels])
    part_of_first = torch.cat([views.share.flatten(), torch.ones_like(added_labels, dtype=views.share.dtype)])
    scale = Standardiser.fit(pool)
    prior = log_prior(encoded.counts, views.features.device)
    torch.manual_seed(seed)
    if kind == "linear":
        inner = start_linear(encoded.head, scale, (tau if start_tau is None else start_tau) * prior)
    else:
        inner = CosineHead(encoded.dim, classes).to(views.features.device)
    head = StandardisedHead(scale, inner)
    start = [parameter.detach().clone() for parameter in head.parameters()] if anchor else []
    directions = class_covariances(scale(views.flat[0]), views.flat[1], classes) if semantic else None  # [C, D, D]

    def loss(head: nn.Module, index: Tensor) -> Tensor:
        view = torch.randint(rounds, index.shape, device=index.device)  # [B]
        place = torch.where(index < n, view * n + index, index + (rounds - 1) * n)
        features, labels, partner, share = (values[place] for values in (pool, first, second, part_of_first))
        goal = share[:, None] * F.one_hot(labels, classes) + (1 - share[:, None]) * F.one_hot(partner, classes)
        if mixup:  # of features [B, D] and goal [B, C]
            weight = torch.distributions.Beta(mixup, mixup).sample(index.shape).to(features.device)[:, None]
            partner_index = torch.randperm(len(index), device=features.device)
            features, goal = (torch.lerp(part[partner_index], part, weight) for part in (features, goal))
        logits = head(features) + tau * prior
        if directions is None:
            value = F.cross_entropy(logits, goal)
        else:
            grown = semantic * (step_now(seed) + 1) / steps
            value = isda_loss(logits, labels, semantic_margins(head.head.weight, directions), grown)
        for now, then in zip(head.parameters(), start, strict=False):
            value = value + anchor * (now - then).square().sum()
        return value

    loop = train(
        head,
        loss,
        n=n + len(added_labels),
        steps=steps,
        batch_size=batch_size,
        optimizer=torch.optim.Adam(head.parameters(), lr),
        lr_schedule=cosine,
        seed=seed,
        precision="fp32",
    )
    return _watched(loop, head, encoded, watch)


def averaged(*logits: Tensor) -> Tensor:
    """The mean of several predictions [N, C], as log-probabilities: an ensemble, or the views of test-time augmentation."""
    return torch.stack([z.log_softmax(dim=1) for z in logits]).mean(0)


@torch.no_grad()
def predict(head: nn.Module, *test: Tensor) -> Tensor:
    """Log-probabilities [N, C] of a head on test features [N, D]; of several (images and mirrored images) their mean."""
    return averaged(*(head(features) for features in test))


def recalibrate_batchnorm(model: nn.Module, batches: Sequence[Tensor]) -> nn.Module:
    """A copy of an encoder whose batch-norm statistics are those of `batches` (images in 0..1), each batch weighing alike.

    An encoder trained with mixup stores the statistics of mixed images, but is tested on clean ones. No label is used.
    """
    model = copy.deepcopy(model)
    update_bn(batches, model)
    return model.eval()


def oracle_bound(encoded: Encoded, seed: int = 0, anchor: float = 0.01, steps: int = 1500) -> float:
    """Test accuracy in percent of a linear head fitted on the other half of the labelled TEST features, both halves in turn.

    Not a method: a reference for what a linear head on these features reaches with some thousand balanced labelled ones.
    It starts from label shift and is held to it; another `anchor` may find a little more.
    """
    order = torch.randperm(len(encoded.test), generator=torch.Generator().manual_seed(seed)).to(encoded.test.device)
    halves = order.tensor_split(2)
    shifted = copy.deepcopy(encoded.head)
    with torch.no_grad():
        shifted.bias -= log_prior(encoded.counts, encoded.test.device)
    total = 0.0
    for half, other in (halves, halves[::-1]):
        labels = encoded.test_labels[half]
        views = Views(encoded.test[half][None], labels, labels[None], torch.ones(1, len(half), device=labels.device))
        test, test_labels = encoded.test[other], encoded.test_labels[other]
        data = replace(
            encoded, test=test, test_labels=test_labels, test_logits=encoded.test_logits[other], head=shifted
        )
        fitted = fit_head(views, data, tau=0.0, anchor=anchor, steps=steps, seed=seed)
        total += accuracy(predict(fitted.head, test), test_labels) / 2
    return total
