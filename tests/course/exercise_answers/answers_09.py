"""Answers to the exercises of notebook 09."""

import torch


def means(head, rare):
    return head.sum(0) / len(head), rare.sum(0) / len(rare)


def shifted(head, rare):
    own, new = means(head, rare)
    return torch.stack([f - own + new for f in head])


def cholesky(matrix):
    return torch.linalg.cholesky(matrix)


def by_cholesky(head, mean, wanted):
    """Another root than the symmetric one: the mean and the covariance are the same."""
    centred = head - head.mean(0)
    white = torch.linalg.solve_triangular(cholesky(head.T.cov()), centred.T, upper=False)
    return (cholesky(wanted) @ white).T + mean


def symmetric(matrix, power):
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values**power) @ vectors.T


def map_by(matrix_of, centre=True, add=True):
    def answer(head, mean, wanted):
        f = head - head.mean(0) if centre else head
        return f @ matrix_of(head.T.cov(), wanted).T + (mean if add else 0)

    return answer


def roots(own, wanted):
    return symmetric(wanted, 0.5) @ symmetric(own, -0.5)


def drawn_anew(head, mean, wanted):
    noise = torch.randn(head.shape, dtype=head.dtype)
    return by_cholesky(noise, mean, wanted)


def loss(sign=1.0, half=0.5, of_label=True, difference=True, power=1, reduce="mean"):
    def answer(z, y, W, S, nu):
        shift = torch.empty_like(z)
        for i, c in enumerate(y.tolist()):
            for k in range(len(W)):
                d = W[k] - W[c] if difference else W[k]
                shift[i, k] = d @ S[c if of_label else k] @ d
        log_p = (z + sign * half * nu**power * shift).log_softmax(1)
        each = -log_p[torch.arange(len(y)), y]
        return each.mean() if reduce == "mean" else each.sum()

    return answer


def turning(left="old", arrived="new", lasting=True, strict=True, never=1000, exchanged=False):
    def answer(steps, answers, old, new):
        def where(kind):
            if kind == "old":
                share = (answers == old).float().mean(1)
                holds = share < 0.5 if strict else share <= 0.5
            else:
                share = (answers == new).float().mean(1)
                holds = share > 0.5 if strict else share >= 0.5
            if lasting:  # a suffix of the sweep
                holds = holds.flip(0).int().cumprod(0).flip(0).bool()
            found = [t for t, good in zip(steps, holds.tolist(), strict=True) if good]
            return found[0] if found else steps[-1] if never is None else never

        both = where(left), where(arrived)
        return both[::-1] if exchanged else both

    return answer


RIGHT = {
    "9.1": shifted,
    "9.2": by_cholesky,
    "9.3": loss(),
    "9.4": turning(),
}
WRONG = {
    "9.1": {
        "still in there": lambda head, rare: head + rare.mean(0),
        "The rare mean is missing": lambda head, rare: head - head.mean(0),
        "The two means are exchanged": lambda head, rare: head - rare.mean(0) + head.mean(0),
        "goes over the features": lambda head, rare: head - head.mean() + rare.mean(),
        "You moved the rare features": lambda head, rare: rare - rare.mean(0) + head.mean(0),
    },
    "9.2": {
        "roots are missing": map_by(lambda own, wanted: wanted @ torch.linalg.inv(own)),
        "undo it first": map_by(lambda own, wanted: symmetric(wanted, 0.5)),
        "use whole matrices": map_by(lambda own, wanted: (wanted.diagonal() / own.diagonal()).sqrt().diag()),
        "nothing is matched": map_by(lambda own, wanted: torch.eye(len(own), dtype=own.dtype)),
        "before you multiply": map_by(roots, centre=False),
        "The mean is not added": map_by(roots, add=False),
        "drawn anew": drawn_anew,
        "a feature for each of the head's": lambda head, mean, wanted: by_cholesky(head, mean, wanted)[:5],
    },
    "9.3": {
        "The half is missing": loss(half=1.0),
        "not S_k": loss(of_label=False),
        "not w_k alone": loss(difference=False),
        "not taken off": loss(sign=-1.0),
        "plain cross-entropy": loss(half=0.0),
        "not the sum": loss(reduce="sum"),
        "not squared": loss(power=2),
    },
    "9.4": {
        "A share may waver": turning(lasting=False),
        "is not to have arrived": turning(arrived="old"),
        "it can be lost before": turning(left="new"),
        "The two are exchanged": turning(exchanged=True),
        "Exactly half is no majority": turning(strict=False),
        "beyond the schedule": turning(never=None),
        "wanted are 2 results": lambda steps, answers, old, new: steps[0],
    },
}
