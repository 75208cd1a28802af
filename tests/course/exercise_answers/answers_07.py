"""Answers to the exercises of notebook 07."""

import torch


def standardise_by_column(features, train):
    columns = []
    for new, old in zip(features.T, train.T, strict=True):
        deviation = (old - old.mean()).square().mean().sqrt().item()
        columns.append((new - old.mean()) / (deviation or 1.0) if deviation > 1e-8 else new - old.mean())
    return torch.stack(columns, 1)


def safe(std):
    return torch.where(std > 1e-6, std, torch.ones_like(std))


def distances(x, y):
    return (x[:, None] - y[None]).square().sum(2).sqrt()


def copies_with_squares(generated, train):
    """Squared distances have the same order, so the same share."""
    among = (train[:, None] - train[None]).square().sum(2)
    among = among[~torch.eye(len(train), dtype=torch.bool)].view(len(train), -1).amin(1)
    nearest = (generated[:, None] - train[None]).square().sum(2).amin(1)
    return 100 * (nearest < among.median()).sum().item() / len(nearest)


def limit(train, middle=torch.median):
    return middle(distances(train, train).fill_diagonal_(torch.inf).amin(1))


def share(nearest, bound):
    return 100 * (nearest < bound).double().mean().item()


def denoise_by_eigenvectors(x_t, mean, covariance, a, s):
    values, vectors = torch.linalg.eigh(covariance)
    along = (x_t - a * mean) @ vectors
    return mean + (along * (a * values / (a**2 * values + s**2))) @ vectors.T


def gain(covariance, a, s):
    return a * covariance @ torch.linalg.inv(a**2 * covariance + s**2 * torch.eye(len(covariance), dtype=torch.float64))


def diagonal_only(x_t, mean, covariance, a, s):
    flat = covariance.diagonal()
    return mean + a * flat / (a**2 * flat + s**2) * (x_t - a * mean)


def noise_not_squared(x_t, mean, covariance, a, s):
    return mean + (x_t - a * mean) @ gain(covariance, a, s**0.5).T


RIGHT = {
    "7.1": standardise_by_column,
    "7.2": copies_with_squares,
    "7.3": denoise_by_eigenvectors,
    "7.4": lambda: (30.0, 0.75, 1.0),
}
WRONG = {
    "7.1": {
        "from the *training* features": lambda new, train: (new - new.mean(0)) / safe(new.std(0)),
        "so each needs its own": lambda new, train: (new - train.mean()) / train.std(),
        "each feature vector by itself": lambda new, train: (
            (new - new.mean(1, keepdim=True)) / new.std(1, keepdim=True)
        ),
        "not by the variance": lambda new, train: (new - train.mean(0)) / safe(train.std(0)) ** 2,
        "The mean is not subtracted": lambda new, train: new / safe(train.std(0)),
        "Let such a dimension keep the deviation 1": lambda new, train: (new - train.mean(0)) / train.std(0),
        "almost 0": lambda new, train: (new - train.mean(0)) / (train.std(0) + 1e-8),
    },
    "7.2": {
        "Leave the feature itself out": lambda made, train: share(
            distances(made, train).amin(1), distances(train, train).amin(1).median()
        ),
        "A share in percent is wanted": lambda made, train: copies_with_squares(made, train) / 100,
        "is *farther* away": lambda made, train: 100 - copies_with_squares(made, train),
        "a mean is drawn up by a few outliers": lambda made, train: share(
            distances(made, train).amin(1), limit(train, torch.mean)
        ),
        "among the generated features": lambda made, train: share(
            distances(made, made).fill_diagonal_(torch.inf).amin(1), limit(train)
        ),
        "Two lists of nearest distances": lambda made, train: share(
            (made - train.mean(0)).norm(dim=1), (train - train.mean(0)).norm(dim=1).median()
        ),
    },
    "7.3": {
        "not around m": lambda x_t, m, S, a, s: m + (x_t - m) @ gain(S, a, s).T,
        "add the mean again": lambda x_t, m, S, a, s: (x_t - a * m) @ gain(S, a, s).T,
        "not only its diagonal": diagonal_only,
        "not s I": noise_not_squared,
        "One a is missing": lambda x_t, m, S, a, s: m + (x_t - a * m) @ gain(S, a, s).T / a,
        "all of the noise is still in it": lambda x_t, m, S, a, s: x_t / a,
        "look at the transpose": lambda x_t, m, S, a, s: m + torch.linalg.solve(S, (x_t - a * m).T).T,
    },
    "7.4": {
        "not at two or three": lambda: (5.0, 0.95, 1.0),
        "the deviation falls": lambda: (32.0, 1.0, 1.0),
        "not that much is lost": lambda: (32.0, 0.4, 1.0),
        "Where does the clamp put all of it": lambda: (32.0, 0.7, 2.0),
        "more than lie beyond": lambda: (68.0, 0.7, 1.0),
    },
}
