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


def covered(points, members, k, owners=None):
    radius = (members[:, None] - members[None]).norm(dim=2).kthvalue(k, dim=1).values
    return ((points[:, None] - members[None]).norm(dim=2) < radius).any(1).double().mean()


def by_kthvalue(real, generated, k, more=1, swap=False, factor=1.0):
    """kthvalue counts from 1 and the member itself is among the values: more = 1 is right."""
    found = factor * covered(generated, real, k + more), factor * covered(real, generated, k + more)
    return found[::-1] if swap else found


def radii_of_the_wrong_set(real, generated, k):
    def share(points, members):
        radius = torch.cdist(points, points).sort(dim=1).values[:, k, None]
        return (torch.cdist(points, members) < radius).any(1).double().mean()

    return share(generated, real), share(real, generated)


def frechet_through_the_product(m1, s1, m2, s2):
    values = torch.linalg.eigvals(s1 @ s2)
    return ((m1 - m2) ** 2).sum() + torch.trace(s1 + s2) - 2 * values.sqrt().real.sum()


def cross(s1, s2):
    return torch.linalg.eigvals(s1 @ s2).sqrt().real.sum()


def gap(m1, m2):
    return (m1 - m2).square().sum()


RIGHT = {
    "6.1": loss_with_torch_no_grad,
    "6.2": by_kthvalue,
    "6.3": frechet_through_the_product,
    "6.4": lambda: (98.0, 5.0, 50.0),
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
        "Precision and recall are swapped": lambda real, made, k: by_kthvalue(real, made, k, swap=True),
        "You count the member itself as the first": lambda real, made, k: by_kthvalue(real, made, k, more=0),
        "one neighbour too far": lambda real, made, k: by_kthvalue(real, made, k, more=2),
        "yours are percent": lambda real, made, k: by_kthvalue(real, made, k, factor=100),
        "The radii come from the wrong set": radii_of_the_wrong_set,
    },
    "6.3": {
        "number by number": lambda m1, s1, m2, s2: (
            gap(m1, m2) + torch.trace(s1 + s2 - 2 * (s1 @ s2).clamp(min=0).sqrt())
        ),
        "equal Gaussians must have distance 0": lambda m1, s1, m2, s2: (
            gap(m1, m2) + torch.trace(s1 + s2) - cross(s1, s2)
        ),
        "of the means enters squared": lambda m1, s1, m2, s2: (
            (m1 - m2).norm() + torch.trace(s1 + s2) - 2 * cross(s1, s2)
        ),
        "The root of the product is missing": lambda m1, s1, m2, s2: gap(m1, m2) + torch.trace(s1 + s2 - 2 * s1 @ s2),
        "the means alone": lambda m1, s1, m2, s2: gap(m1, m2),
        "The means are missing": lambda m1, s1, m2, s2: torch.trace(s1 + s2) - 2 * cross(s1, s2),
        "the covariances between them count": lambda m1, s1, m2, s2: (
            gap(m1, m2) + (s1.diagonal().sqrt() - s2.diagonal().sqrt()).square().sum()
        ),
        "A complex number": lambda m1, s1, m2, s2: (
            gap(m1, m2) + torch.trace(s1 + s2) - 2 * torch.linalg.eigvals(s1 @ s2).sqrt().sum()
        ),
        "is the *squared* distance": lambda m1, s1, m2, s2: (
            frechet_through_the_product(m1, s1, m2, s2).clamp(min=0).sqrt()
        ),
    },
    "6.4": {
        "nothing lies closer to a real feature than its copy": lambda: (10.0, 2.0, 55.0),
        "so their balls are tiny": lambda: (100.0, 100.0, 55.0),
        "Real features of the half that is never drawn": lambda: (100.0, 2.0, 95.0),
        "Percent are wanted": lambda: (1.0, 0.02, 0.5),
    },
}
