"""Answers to the exercises of appendix A1."""

import torch


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
    "A1.1": by_kthvalue,
    "A1.2": frechet_through_the_product,
    "A1.3": lambda: (98.0, 5.0, 50.0),
}
WRONG = {
    "A1.1": {
        "Precision and recall are swapped": lambda real, made, k: by_kthvalue(real, made, k, swap=True),
        "You count the member itself as the first": lambda real, made, k: by_kthvalue(real, made, k, more=0),
        "one neighbour too far": lambda real, made, k: by_kthvalue(real, made, k, more=2),
        "yours are percent": lambda real, made, k: by_kthvalue(real, made, k, factor=100),
        "The radii come from the wrong set": radii_of_the_wrong_set,
        "Draw five points and their balls": lambda real, made, k: (0.5, 0.5),
        "Numbers of two types met": lambda real, made, k: (real @ torch.ones(2, 1), 0.0),
        "stops with AttributeError": lambda real, made, k: (real.distance(made), 0.0),
    },
    "A1.2": {
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
        "two cases that you can do on paper": lambda m1, s1, m2, s2: gap(m1, m2) + 1,
        "is the *squared* distance": lambda m1, s1, m2, s2: (
            frechet_through_the_product(m1, s1, m2, s2).clamp(min=0).sqrt()
        ),
    },
    "A1.3": {
        "nothing lies closer to a real feature than its copy": lambda: (10.0, 2.0, 55.0),
        "so their balls are tiny": lambda: (100.0, 100.0, 55.0),
        "Real features of the half that is never drawn": lambda: (100.0, 2.0, 95.0),
        "Percent are wanted": lambda: (1.0, 0.02, 0.5),
    },
}
