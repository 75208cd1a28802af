"""Losses for long-tailed recognition by name, and the corrections for the class prior at test time.

z are the logits [B, C], n_c the training images of class c, pi_c = n_c / N. A loss is built once for the class counts and then
called as loss(logits [B, C], target) -> scalar. A target is labels [B], or soft targets [B, C]: the shares of the classes in each
image, as mixup and cutmix make them. Labels and their one-hot vectors give the same.
"""

import inspect
import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from lt_utils.data.longtail import check_counts_fit
from lt_utils.errors import CourseError, choose

Loss = Callable[[Tensor, Tensor], Tensor]
Device = torch.device | str


# ------------------------------------------------------------------------------------------- the prior, in and after training
def log_prior(counts: Sequence[int], device: Device = "cpu") -> Tensor:
    """log(n_c / N) of each class, float32 [C]: the log of the class prior of the training set.

    Raises CourseError for a class without training image, whose log prior would be minus infinity.
    """
    check_counts(counts, "log prior")
    counts = torch.as_tensor(list(counts), dtype=torch.float32, device=device)
    return torch.log(counts / counts.sum())


def log_odds(counts: Sequence[int], device: Device = "cpu") -> Tensor:
    """log pi_c - log(1 - pi_c) of each class, float32 [C]: what the log prior is for a sigmoid.

    Raises CourseError for a class without training image, and for a single class.
    """
    check_counts(counts, "log odds")
    if len(counts) < 2:
        raise CourseError("One class alone has no log odds: give the counts of two or more.")
    counts = torch.as_tensor(list(counts), dtype=torch.float64)
    return torch.log(counts / (counts.sum() - counts)).to(device, torch.float32)


def check_counts(counts: Sequence[int], needed: str) -> None:
    """Raise CourseError for a class without training image, which has no `needed`."""
    if min(counts) <= 0:
        empty = list(counts).index(min(counts))
        raise CourseError(f"Class {empty} has no training image and so no {needed}: give counts above 0.")


def label_shift(logits: Tensor, counts: Sequence[int], tau: float = 1.0) -> Tensor:
    """Post-hoc logit adjustment, logits - tau log(n_c / N), for a test set where all classes are equally likely.

    With tau = 1 its softmax is q(c|x) proportional to p(c|x) (1/C) / (n_c/N): the label-shift compensation of LDMLR,
    and equation 9 of Menon et al. (2021, arXiv 2007.07314). Logits [..., C] in, adjusted logits [..., C] out.
    """
    check_counts_fit(counts, logits.shape[-1])
    return logits - tau * log_prior(counts, logits.device)


def sigmoid_label_shift(logits: Tensor, counts: Sequence[int], tau: float = 1.0) -> Tensor:
    """The same for a network trained with sigmoids: log sigmoid(z_c + tau log odds_c) - log pi_c, scores [..., C].

    tau: what the loss was trained with, 1 for balanced BCE, 0 for BCE. The sigmoid is then p(c|x) on the training set, and the
    scores log p(x|c) / p(x): their argmax is Bayes' rule for equal classes. The argmax of the logits, as LiVT reads balanced
    BCE out, is not for three classes or more: it compares log p(x|c) / p(x|not c), where "not c" is mixed by the prior.
    """
    log_p = F.logsigmoid(logits + tau * log_odds(counts, logits.device))
    return log_p - log_prior(counts, logits.device)


def logit_adjusted_loss(logits: Tensor, labels: Tensor, counts: Sequence[int], tau: float = 1.0) -> Tensor:
    """Cross-entropy of logits + tau log(n_c / N) (Menon et al. 2021, equation 10), mean over the batch: "bal-ce".

    The prior is inside the loss, so the bare logits [B, C] are already balanced: use them at test time as they are.
    """
    check_counts_fit(counts, logits.shape[-1])
    return balanced_cross_entropy(counts, logits.device, tau)(logits, labels)


# --------------------------------------------------------------------------------------------------------------- class weights
def class_weights(counts: Sequence[int], beta: float = 0.9999, device: Device = "cpu") -> Tensor:
    """Weights [C] that sum to C, proportional to 1 / `effective_number`, float32 (Cui et al. 2019, arXiv 1901.05555).

    beta = 0 weighs all classes alike, beta = 1 by 1 / n_c. CourseError for a class without training image.
    """
    check_counts(counts, "class weight")
    weights = 1 / effective_number(torch.as_tensor(list(counts)), beta)
    return (weights * len(weights) / weights.sum()).to(device, torch.float32)


def effective_number(n: Tensor, beta: float) -> Tensor:
    """(1 - beta^n) / (1 - beta) of class sizes n [C], float64: 1 for beta = 0, n for beta = 1. CourseError for another beta."""
    if not 0 <= beta <= 1:
        raise CourseError(f"beta, of the effective number, must be in 0..1, not {beta}.")
    return n.double() if beta == 1 else (1 - beta ** n.double()) / (1 - beta)


# ------------------------------------------------------------------------------------------------------------ softmax losses
def _precise(logits: Tensor) -> Tensor:
    """The logits in float32 where the network computed in bfloat16."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def as_shares(logits: Tensor, target: Tensor, whole: bool = True) -> Tensor:
    """The target as shares [B, C], in the float type of `_precise`: one-hot vectors of labels, or soft targets themselves.

    Raises CourseError for another shape, and with `whole` for shares that do not sum to one.
    """
    dtype = _precise(logits[:0]).dtype
    if target.shape == logits.shape[:1] and not target.is_floating_point():
        return F.one_hot(target, logits.shape[1]).to(dtype)
    if target.shape != logits.shape or not target.is_floating_point():
        raise CourseError(
            f"A target is labels [B] or soft targets [B, C], not {list(target.shape)} {target.dtype} for logits "
            f"{list(logits.shape)}."
        )
    if whole and ((target.sum(1) - 1).abs() > 1e-3).any():
        raise CourseError("Soft targets must sum to 1 for each image: divide them by their sum.")
    return target.to(dtype)


def _mean(cost: Tensor, target: Tensor, weights: Tensor | float = 1.0) -> Tensor:
    """The mean over the batch of cost [B, C], what each class would cost were it the label; `weights` [C] weigh the labels.

    As in torch's cross_entropy the sum is divided by the sum of the weights of the batch, not by its size.
    """
    share = as_shares(cost, target) * weights  # [B, C]
    return (share * cost).sum() / share.sum()


def cross_entropy() -> Loss:
    """-log p_y, p = softmax(z)."""
    return lambda z, target: F.cross_entropy(z, target if target.ndim == 1 else as_shares(z, target))


def smoothed_cross_entropy(smoothing: float | Tensor = 0.1) -> Loss:
    """-(1 - s) log p_y - s mean_c log p_c: the label gives the share s to all classes, itself included (Szegedy et al. 2016)."""

    def loss(z: Tensor, target: Tensor) -> Tensor:
        nll = -_precise(z).log_softmax(1)
        return _mean((1 - smoothing) * nll + smoothing * nll.mean(1, keepdim=True), target)

    return loss


def class_balanced_cross_entropy(counts: Sequence[int], device: Device = "cpu", beta: float = 0.9999) -> Loss:
    """-w_y log p_y / (mean w of the batch), w = `class_weights` (Cui et al. 2019)."""
    weights = class_weights(counts, beta, device)
    return lambda z, target: _mean(-_precise(z).log_softmax(1), target, weights)


def balanced_cross_entropy(counts: Sequence[int], device: Device = "cpu", tau: float = 1.0) -> Loss:
    """Cross-entropy of z + tau log pi: logit adjustment, with tau = 1 balanced softmax (Ren et al. 2020)."""
    plain, shift = cross_entropy(), tau * log_prior(counts, device)
    return lambda z, target: plain(z + shift, target)


def focal(gamma: float = 1.0) -> Loss:
    """-(1 - p_y)^gamma log p_y (Lin et al. 2017): what the network already knows counts less."""

    def loss(z: Tensor, target: Tensor) -> Tensor:
        log_p = _precise(z).log_softmax(1)
        missing = (-log_p.expm1()).clamp_min(1e-12)  # 1 - p; its root has no finite slope at 0
        return _mean(-(missing**gamma) * log_p, target)

    return loss


def ldam(
    counts: Sequence[int], device: Device = "cpu", margin: float = 0.5, scale: float = 30.0, beta: float = 0.0
) -> Loss:
    """Cross-entropy of scale (z - m_y at the label y), m_c ~ n_c^(-1/4), the largest `margin` (Cao et al. 2019, 1906.07413).

    z are the cosines of a cosine head. For one that has multiplied them by s already, say scale = 1 and s times the margin.
    beta: of the class weights that the labels get; 0: none.
    """
    check_counts(counts, "margin")
    n = torch.as_tensor(list(counts), dtype=torch.float64)
    margins = (margin * (n / n.min()) ** -0.25).to(device, torch.float32)  # [C]
    weights = class_weights(counts, beta, device)

    def loss(z: Tensor, target: Tensor) -> Tensor:
        z = scale * _precise(z)
        own = z - scale * margins
        # log sum_{j != c} e^z_j: for the largest logit by leaving it out, for the others as log(sum of all - their own).
        top, total = z.argmax(1, keepdim=True), z.logsumexp(1, keepdim=True)
        p = z.softmax(1).scatter(1, top, 0.0)  # at most 1/2 each, so that 1 - p keeps its digits
        without_top = z.scatter(1, top, -math.inf).logsumexp(1, keepdim=True)
        others = (total + torch.log1p(-p)).scatter(1, top, without_top)
        return _mean(F.softplus(others - own), target, weights)

    return loss


def _concave(x: Tensor) -> Tensor:
    return torch.sin(x * math.pi / 2)


# How the smoothing grows from 0 at the rarest class to 1 at the most frequent; x = (n - n_min) / (n_max - n_min).
SHAPES: dict[str, Callable[[Tensor], Tensor]] = {
    "concave": _concave,
    "linear": lambda x: x,
    "convex": lambda x: 1 - _concave(1 - x),
    "power": lambda x: x**2,
}


def smoothing_by_class(counts: Sequence[int], head: float = 0.3, tail: float = 0.0, shape: str = "concave") -> Tensor:
    """How much the label of each class is smoothed, float32 [C]: `tail` for the rarest class, `head` for the most frequent.

    Label-aware smoothing of MiSLAS (Zhong et al. 2021, arXiv 2104.00466). shape: one of SHAPES. Equal counts get `tail`.
    """
    n = torch.as_tensor(list(counts), dtype=torch.float64)
    place = (n - n.min()) / (n.max() - n.min()).clamp_min(1)
    return (tail + (head - tail) * SHAPES[choose("shape", shape, SHAPES)](place)).float()


def label_aware_smoothing(
    counts: Sequence[int], device: Device = "cpu", head: float = 0.3, tail: float = 0.0, shape: str = "concave"
) -> Loss:
    """`smoothed_cross_entropy` whose s depends on the label, s_y = `smoothing_by_class` (MiSLAS)."""
    return smoothed_cross_entropy(smoothing_by_class(counts, head, tail, shape).to(device))


def lade(counts: Sequence[int], device: Device = "cpu", weight: float = 0.1, strength: float = 0.1) -> Loss:
    """Balanced cross-entropy + weight * sum_c pi_c (-bound_c + strength e_c^2) (LADE: Hong et al. 2021, arXiv 2012.00321).

    bound_c = mean of z_c over the images of class c - e_c, with e_c = log mean_b u_b exp(z_bc), is Donsker and Varadhan's lower
    bound of how far p(x|c) is from the balanced p(x): u = (1/C) / pi_y weighs the batch as if its classes were equally frequent.
    Classes that are not in the batch have no bound and are left out. (The published program keeps them, and weighs the column of
    class c by its own prior in the place of each image's.)
    """
    compensated, prior = balanced_cross_entropy(counts, device), log_prior(counts, device).exp()
    balance = 1 / (len(counts) * prior)  # [C]

    def loss(z: Tensor, target: Tensor) -> Tensor:
        share = as_shares(z, target)  # [B, C]
        z, size = _precise(z), share.sum(0)  # [B, C]; [C], images of each class
        mean = (share * z).sum(0) / size.clamp_min(1e-12)
        e = (z + (share @ balance.to(share.dtype)).log()[:, None]).logsumexp(0) - math.log(len(z))
        penalty = torch.where(size > 0, prior * (e - mean + strength * e**2), 0.0)
        return compensated(z, target) + weight * penalty.sum()

    return loss


# ------------------------------------------------------------------------------------------------------------ sigmoid losses
def binary_cross_entropy(weights: Tensor | None = None) -> Loss:
    """-sum_c [t_c log s_c + (1 - t_c) log(1 - s_c)], s = sigmoid(z), times `weights` [C] if given; mean over the batch.

    Here soft targets need not sum to one: an image may show several classes.
    """

    def loss(z: Tensor, target: Tensor) -> Tensor:
        share = as_shares(z, target, whole=False)
        return F.binary_cross_entropy_with_logits(_precise(z), share, weights, reduction="sum") / len(z)

    return loss


def class_balanced_bce(counts: Sequence[int], device: Device = "cpu", beta: float = 0.9999) -> Loss:
    """BCE whose column c is weighed by `class_weights`, where c is the label and where it is not."""
    return binary_cross_entropy(class_weights(counts, beta, device))


def balanced_bce(counts: Sequence[int], device: Device = "cpu", tau: float = 1.0) -> Loss:
    """BCE of z + tau (log pi - log(1 - pi)), the same shift for the label and for the other classes (LiVT, Xu et al. 2023).

    Read the logits out with `sigmoid_label_shift`. For more than two classes the shift is not 0 for equal classes either.
    """
    plain, shift = binary_cross_entropy(), tau * log_odds(counts, device)
    return lambda z, target: plain(z + shift, target)


LOSSES: dict[str, Callable[..., Loss]] = {
    "ce": cross_entropy,
    "ls-ce": smoothed_cross_entropy,
    "cb-ce": class_balanced_cross_entropy,
    "bal-ce": balanced_cross_entropy,
    "bce": binary_cross_entropy,
    "cb-bce": class_balanced_bce,
    "bal-bce": balanced_bce,
    "ldam": ldam,
    "las": label_aware_smoothing,
    "lade": lade,
    "focal": focal,
}


def build_loss(name: str, counts: Sequence[int], device: Device = "cpu", **settings) -> Loss:
    """The loss called `name` in LOSSES for training `counts` [C]: loss(logits [B, C], labels [B] or soft targets [B, C]).

    settings: what the function in LOSSES takes, such as tau of "bal-ce" and "bal-bce". Raises CourseError for an unknown name
    (lists the known ones), a setting that the loss has not, and a class without training image where the loss needs its prior.
    """
    builder = LOSSES[choose("loss", name, LOSSES)]
    takes = inspect.signature(builder).parameters
    known = [setting for setting in takes if setting not in ("counts", "device")]
    for setting in settings:
        if setting not in known:
            raise CourseError(f"The loss {name!r} has no {setting}: it takes {', '.join(known) or 'no setting'}.")
    given = {"counts": counts, "device": device}
    return builder(**{key: value for key, value in given.items() if key in takes}, **settings)
