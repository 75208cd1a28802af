"""Answers to the exercises of notebook 06."""

import torch


def weights(t, steps, tau):
    return (tau * t.double() / steps).reshape(-1, 1, 1, 1)


def loss_with_torch_no_grad(e, other, t, steps, tau):
    """Constants made by torch.no_grad instead of detach, image by image."""
    with torch.no_grad():
        fixed, fixed_other = 1 * e, 1 * other
    parts = []
    for i, step in enumerate(t.tolist()):
        parts.append(tau * step / steps * ((e[i] - fixed_other[i]) ** 2 + (fixed[i] - other[i]) ** 2 / 4).mean())
    return sum(parts) / len(parts)


def loss_with(first=True, second=True, gamma=0.25, weight=weights, reduce=torch.mean):
    """The right loss, but for one thing: which side is detached (True: as it should be), gamma, weight, mean or sum."""

    def answer(e, other, t, steps, tau):
        w = weight(t, steps, tau)
        regular = reduce(w * (e - (other.detach() if first else other)) ** 2)
        commitment = reduce(w * ((e.detach() if second else e) - other) ** 2)
        return regular + gamma * commitment

    return answer


def sides_swapped(e, other, t, steps, tau):
    return loss_with()(other, e, t, steps, tau)


def all_detached(e, other, t, steps, tau):
    return 1.25 * (weights(t, steps, tau) * (e - other).detach() ** 2).mean()


def not_averaged(e, other, t, steps, tau):
    return weights(t, steps, tau) * ((e - other.detach()) ** 2 + (e.detach() - other) ** 2 / 4)


def commitment_without_gradient(e, other, t, steps, tau):
    w = weights(t, steps, tau)
    return (w * (e - other.detach()) ** 2).mean() + (w * (e - other).detach() ** 2).mean() / 4


def pull(counts, prior, belongs=torch.gt, always=""):
    """By a loop over pairs of classes; belongs: how the other's count compares with one's own."""
    shares = counts / counts.sum() if (always or prior) == "train" else torch.ones(len(counts)) / len(counts)
    return [
        sum(shares[o].item() for o in range(len(counts)) if belongs(counts[o], counts[c])) for c in range(len(counts))
    ]


def pull_in_order(counts, prior):
    shares = counts / counts.sum() if prior == "train" else torch.ones(len(counts)) / len(counts)
    return shares.cumsum(0) - shares


def pull_of_others(counts, prior):
    shares = counts / counts.sum() if prior == "train" else torch.ones(len(counts)) / len(counts)
    return torch.tensor(pull(counts, prior)) / (1 - shares)


RIGHT = {
    "6.1": loss_with_torch_no_grad,
    "6.2": pull,
    "6.3": lambda: (1.0, 20.0, 80.0),
}
WRONG = {
    "6.1": {
        "Without stop-gradients": loss_with(first=False, second=False),
        "the commitment term counts one quarter": loss_with(gamma=1.0),
        "The stop-gradients are swapped": sides_swapped,
        "The commitment term is missing": loss_with(gamma=0.0),
        "your t is missing": loss_with(weight=lambda t, steps, tau: tau),
        "was not divided by the number of steps": loss_with(weight=lambda t, steps, tau: weights(t, 1, tau)),
        "your tau is missing": loss_with(weight=lambda t, steps, tau: weights(t, steps, 1)),
        "not the sum": loss_with(reduce=torch.sum),
        "The shapes do not fit together": loss_with(weight=lambda t, steps, tau: tau * t / steps),
        "Nothing can learn from this": all_detached,
        "One number is wanted": not_averaged,
        "each term detaches *one* side": commitment_without_gradient,
    },
    "6.2": {
        "where is the head": lambda counts, prior: pull(counts, prior, torch.lt),
        "Classes of equal size count for you": lambda counts, prior: pull(counts, prior, torch.ge),
        "y itself among them": pull_of_others,
        "Probabilities are wanted": lambda counts, prior: (
            torch.tensor(pull(counts, prior)) * (counts.sum() if prior == "train" else len(counts))
        ),
        'as for "train" under both': lambda counts, prior: pull(counts, prior, always="train"),
        'as for "uniform" under both': lambda counts, prior: pull(counts, prior, always="uniform"),
        "compare the counts, not the places": pull_in_order,
        "wanted is [": lambda counts, prior: sum(pull(counts, prior)),
        "a return is missing": lambda counts, prior: None,
        "Numbers of two types met": lambda counts, prior: (counts > 3).double() @ torch.ones(len(counts)),
    },
    "6.3": {
        "how many of all training images": lambda: (20.0, 20.0, 80.0),
        "how many of the ten classes": lambda: (1.0, 10.0, 80.0),
        "Which term moves it": lambda: (1.0, 20.0, 50.0),
        "Percent are wanted": lambda: (0.01, 0.2, 0.8),
    },
}
