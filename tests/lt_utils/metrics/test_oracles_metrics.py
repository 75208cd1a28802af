"""Oracles: our measures against scikit-learn, torchmetrics and SciPy on the same random inputs."""

import pytest
import scipy.linalg
import torch
from sklearn.metrics import accuracy_score, f1_score, recall_score, top_k_accuracy_score
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError
from torchmetrics.image.fid import FrechetInceptionDistance

from lt_utils.metrics.generation import frechet_distance
from lt_utils.metrics.recognition import (
    accuracy,
    calibration_error,
    class_accuracy,
    group_accuracy,
    largest_calibration_error,
    macro_f1,
    reliability,
    top_k_accuracy,
)

CLASSES = 7
COUNTS = [500, 200, 101, 100, 20, 19, 5]


@pytest.fixture(params=[0, 1, 2])
def predicted(request):
    """Logits that are right more often than by chance, and labels."""
    generator = torch.Generator().manual_seed(request.param)
    labels = torch.randint(0, CLASSES, (600,), generator=generator)
    logits = torch.randn(600, CLASSES, generator=generator) * 2
    logits[torch.arange(600), labels] += 1.5
    return logits, labels


def test_accuracy_against_scikit_learn_and_torchmetrics(predicted):
    logits, labels = predicted
    guess = logits.argmax(1)
    assert accuracy(logits, labels) == pytest.approx(100 * accuracy_score(labels, guess), rel=1e-12)
    assert accuracy(logits, labels) == pytest.approx(
        100 * MulticlassAccuracy(CLASSES, average="micro")(logits, labels).item(), rel=1e-6
    )


def test_class_accuracy_is_recall_per_class(predicted):
    logits, labels = predicted
    ours = class_accuracy(logits, labels)
    assert ours.tolist() == pytest.approx(100 * recall_score(labels, logits.argmax(1), average=None), rel=1e-12)
    peer = MulticlassAccuracy(CLASSES, average=None)(logits, labels)
    assert torch.allclose(ours.float(), 100 * peer, rtol=1e-5)


def test_group_accuracy_against_scikit_learn(predicted):
    logits, labels = predicted
    groups = {"many": [0, 1, 2], "medium": [3, 4], "few": [5, 6]}
    ours = group_accuracy(logits, labels, COUNTS)
    for name, members in groups.items():
        chosen = torch.isin(labels, torch.tensor(members))
        assert ours[name] == pytest.approx(100 * accuracy_score(labels[chosen], logits.argmax(1)[chosen]), rel=1e-12)


def test_f1_and_top_k_against_scikit_learn(predicted):
    logits, labels = predicted
    assert macro_f1(logits, labels) == pytest.approx(
        100 * f1_score(labels, logits.argmax(1), average="macro"), rel=1e-12
    )
    for k in (1, 2, 5):
        assert top_k_accuracy(logits, labels, k) == pytest.approx(
            100 * top_k_accuracy_score(labels, logits, k=k), rel=1e-12
        )


@pytest.mark.parametrize("bins", [1, 5, 10, 15, 40])
def test_largest_calibration_error_against_torchmetrics(predicted, bins):
    logits, labels = predicted
    probabilities = logits.softmax(1)
    peer = MulticlassCalibrationError(CLASSES, n_bins=bins, norm="max")(probabilities, labels).item()
    assert largest_calibration_error(probabilities, labels, bins) == pytest.approx(100 * peer, rel=1e-4)


@pytest.mark.parametrize("bins", [1, 5, 10, 15, 40])
def test_calibration_error_against_torchmetrics(predicted, bins):
    logits, labels = predicted
    probabilities = logits.softmax(1)
    peer = MulticlassCalibrationError(CLASSES, n_bins=bins, norm="l1")(probabilities, labels).item()
    assert peer > 0.01 and calibration_error(probabilities, labels, bins) == pytest.approx(100 * peer, rel=1e-4)


def test_reliability_against_scikit_learn(predicted):
    from sklearn.calibration import calibration_curve

    logits, labels = predicted
    confidence, guess = logits.softmax(1).max(1)
    share, trust, right = reliability(logits.softmax(1), labels, bins=10)
    true, mean = calibration_curve((guess == labels).numpy(), confidence.numpy(), n_bins=10)
    filled = share > 0
    assert share.sum().item() == pytest.approx(1)
    assert right[filled].tolist() == pytest.approx(true.tolist(), rel=1e-6)
    assert trust[filled].tolist() == pytest.approx(mean.tolist(), rel=1e-5)


class Pooled(torch.nn.Module):
    """A feature extractor for torchmetrics: images [N, 3, 8, 8] to 12 numbers, fixed at random."""

    def __init__(self):
        super().__init__()
        self.register_buffer("matrix", torch.randn(192, 12, generator=torch.Generator().manual_seed(0)).double() / 14)

    def forward(self, images):
        return torch.tanh(images.double().flatten(1) @ self.matrix)


def test_frechet_distance_against_torchmetrics():
    extract = Pooled()
    torch.manual_seed(0)
    real, fake = torch.randn(300, 3, 8, 8), 1.3 * torch.randn(200, 3, 8, 8) + 0.2
    peer = FrechetInceptionDistance(feature=extract, input_img_size=(3, 8, 8)).set_dtype(torch.float64)
    peer.update(real, real=True)
    peer.update(fake, real=False)
    ours = frechet_distance(extract(real), extract(fake))
    assert ours > 0.05 and ours == pytest.approx(peer.compute().item(), rel=1e-6)


def test_frechet_distance_against_the_matrix_square_root_of_scipy():
    torch.manual_seed(0)
    first = torch.randn(400, 20, dtype=torch.float64) @ torch.randn(20, 20, dtype=torch.float64)
    second = torch.randn(300, 20, dtype=torch.float64) @ torch.randn(20, 20, dtype=torch.float64) + 1
    one, two = first.T.cov().numpy(), second.T.cov().numpy()
    root = scipy.linalg.sqrtm(one @ two)
    expected = (first.mean(0) - second.mean(0)).square().sum().item() + (one + two - 2 * root.real).trace()
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-8)
