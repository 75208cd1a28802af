"""Checks of the exercises of notebook 06: the class-balancing loss, whom its second label pulls where, and how hard."""

from collections.abc import Callable

import torch
from torch import Tensor

from course.checks.tools import Case, Random, Refusals, Wrong, exercise, near, numbers, predicted


@exercise(
    "6.1",
    "value and both gradients, 4 to -1, in 10 random batches",
    "Look at three things: which shape a weight for each image needs beside [B, C, H, W]; which side of each difference is a "
    "constant (.detach()); and over what the mean runs.",
    over=(5, 4) * 5,  # with size 4 a weight of shape [B] also fits the width of an image
)
def balancing_loss(answer: Callable, random: Random, size: int) -> Case:
    """answer(e [B, C, H, W], other [B, C, H, W], t [B], steps, tau) -> the added loss, a number that can be differentiated."""
    e, other = (random.normal(4, 2, size, size).requires_grad_(True) for _ in range(2))
    steps, tau = random.whole(100, 1000), random.between(0.3, 2)
    t = torch.randint(1, steps, (4,), generator=random)
    difference = (e - other).detach()

    def outcome(weight: Tensor, to_e: float = 1.0, to_other: float = 0.25, value: float | None = None) -> Tensor:
        """Value of the loss, gradients onto e and other: all follow from the weights of the two directions."""
        push = 2 * weight * difference / difference.numel()
        total = (to_e + to_other if value is None else value) * (weight * difference**2).mean()
        return torch.cat([total.view(1), (to_e * push).flatten(), (-to_other * push).flatten()])

    w = (tau * t.double() / steps).view(-1, 1, 1, 1)
    mistakes = {
        "Without stop-gradients both terms pull at both predictions alike. In each term one side is a constant: which one "
        "says the formula.": outcome(w, 1.25, 1.25, 1.25),
        "The two directions have different weights: the commitment term counts one quarter.": outcome(w, 1.0, 1.0),
        "The stop-gradients are swapped: the *larger* term moves e, the prediction under the true label.": outcome(
            w, 0.25, 1.0
        ),
        "The commitment term is missing: other is to follow, too, with one quarter of the weight.": outcome(
            w, 1.0, 0.0
        ),
        "The weight is tau t / T: your t is missing.": outcome(0 * w + tau),
        "The weight is tau t / T: t was not divided by the number of steps.": outcome(w * steps),
        "The weight is tau t / T: your tau is missing.": outcome(w / tau),
        "The mean over all numbers is wanted, not the sum.": outcome(w * e.numel()),
        "The commitment term is there in value, but no gradient reaches other: each term detaches *one* side.": outcome(
            w, 1.0, 0.0, 1.25
        ),
        "Nothing can learn from this: both sides are detached in both terms.": outcome(w, 0.0, 0.0, 1.25),
    }
    if size == 4:
        mistakes[
            "Each image has a weight of its own, shape [B, 1, 1, 1]; yours runs along the width of the images."
        ] = outcome(w.flatten().expand(4, 2, size, size))
    loss = answer(e, other, t, steps, tau)
    value = numbers(loss)
    if value.ndim:
        raise Wrong("One number is wanted: take the mean over all numbers of the batch.")
    gradients = [torch.zeros_like(e), torch.zeros_like(other)]
    if isinstance(loss, Tensor) and loss.requires_grad:
        found = torch.autograd.grad(loss, (e, other), allow_unused=True)
        gradients = [zero if one is None else one for one, zero in zip(found, gradients, strict=True)]
    return Case(torch.cat([value.view(1), *(one.flatten() for one in gradients)]), outcome(w), mistakes)


@exercise(
    "6.2",
    "equal to a count by hand, for both priors and for classes in any order",
    "First the probability of each class as y'. Then, for each class, add up those of the classes with more images than it.",
    over=("train", "uniform") * 6,
)
def pull_to_head(answer: Callable, random: Random, prior: str) -> Case:
    """answer(counts [C], prior) -> [C] probability that y' is a class with more training images than c."""
    counts = [random.whole(1, 12) for _ in range(random.whole(4, 9))]
    counts += [counts[0], 13]  # two classes of one size; the head comes last
    total, classes = sum(counts), range(len(counts))
    train = [n / total for n in counts]
    uniform = [1 / len(counts)] * len(counts)
    shares = train if prior == "train" else uniform

    def added(belongs: Callable, shares: list = shares) -> list[float]:
        """For each class the shares of those that belong, by their counts."""
        return [sum(shares[o] for o in classes if belongs(counts[o], counts[c])) for c in classes]

    right = added(lambda other, own: other > own)
    own = [shares[c] for c in classes]
    mistakes = {
        "You count classes with *fewer* images than c; where is the head?": added(lambda other, own: other < own),
        "Classes of equal size count for you, c itself among them. A pull towards the head comes from classes with more "
        "images only.": added(lambda other, own: other >= own),
        "y' is drawn from all classes, y itself among them, so nothing is divided by the share of the others.": [
            value / (1 - share) for value, share in zip(right, own, strict=True)
        ],
        "These are numbers of images or classes. Probabilities are wanted: all classes together have 1.": [
            value * (total if prior == "train" else len(counts)) for value in right
        ],
        'Yours is as for "train" under both priors: "uniform" draws all classes equally often.': added(
            lambda other, own: other > own, train
        ),
        'Yours is as for "uniform" under both priors: "train" draws classes as often as they have images.': added(
            lambda other, own: other > own, uniform
        ),
        "This holds if classes stand in order of size. Here they do not: compare the counts, not the places.": [
            sum(shares[:c]) for c in classes
        ],
    }
    return Case(answer(torch.tensor(counts), prior), right, mistakes, atol=1e-6)


@exercise(
    "6.3", "from the training prior the few hardly ever pull; and the true label's prediction does most of the moving"
)
def prediction(answer: Callable, random: Random) -> Refusals:
    """answer() -> (the few among y' under "train", under "uniform", share of the movement of the first), in percent."""
    train, uniform, moved = predicted(answer, 3, "three percentages")
    return {
        "Percent are wanted: 50 for one half.": 0 < max(train, uniform, moved) <= 1,
        f"You say that {train:.0f} % of y' are few under the training prior. y' is then drawn like the label of a training "
        "image: how many of all training images belong to the two smallest classes?": not near(train, 1, 1.5),
        f"You say that {uniform:.0f} % of y' are few under the uniform prior. Counts do not matter any more: how many of "
        "the ten classes are few?": not near(uniform, 20, 2),
        f"You say that the prediction under the true label does {moved:.0f} % of the moving. Which term moves it, which "
        "moves the other, and how do their weights compare?": not near(moved, 80, 3),
    }
