"""The benchmark of fidelity: what it measures on features whose answer is known. Speed is not tested."""

import pytest
import torch
from torch import nn

from benchmarks import fidelity
from benchmarks.__main__ import fidelity_table
from lt_utils.features import Encoded


@pytest.fixture(scope="module")
def data():
    """Two classes of 8 numbers, 0.2 and 0.8 on average, and a head that separates them; as much for training as for test."""
    torch.manual_seed(0)
    labels = torch.arange(200) % 2
    train, test = (0.2 + 0.6 * labels[:, None] + 0.05 * torch.randn(200, 8) for _ in range(2))
    head = nn.Linear(8, 2)
    head.weight.data = torch.tensor([[-1.0], [1.0]]).expand(2, 8).clone()
    head.bias.data = torch.tensor([4.0, -4.0])
    return Encoded(train, labels, test, labels, head(test).detach(), head, [100, 100])


def test_closeness_is_zero_for_the_real_features_and_far_for_swapped_or_shifted_ones(data):
    same = fidelity.closeness(data, data.train, data.train_labels)
    assert same["frechet"] == pytest.approx(0, abs=1e-6) and same["accuracy"] == 100
    swapped = fidelity.closeness(data, data.train, 1 - data.train_labels)
    assert swapped["frechet"] == pytest.approx(0, abs=1e-6) and swapped["accuracy"] == 0
    # Shifted by one standard deviation of each of the 8 dimensions: |m1 - m2|^2 = 8.
    shifted = data.train + data.train.std(0, correction=0)
    assert fidelity.closeness(data, shifted, data.train_labels)["frechet"] == pytest.approx(8, rel=1e-4)


def test_ours_learns_the_features_of_each_class(data):
    _, _, draw = fidelity.until(fidelity.train_ours(data), seen=80 * 200)
    wanted = torch.arange(40) % 2
    assert fidelity.closeness(data, draw(wanted), wanted)["accuracy"] >= 95


def test_the_peer_sees_the_labels_and_draws_in_the_range_of_the_real_features(data):
    training = fidelity.train_peer(data, steps=2)
    seen, draw = next(training)
    assert seen == 200
    drawn = []
    for wanted in (torch.zeros(6).long(), torch.ones(6).long()):
        torch.manual_seed(0)
        drawn.append(draw(wanted))
    assert not torch.allclose(*drawn, atol=1e-4)
    assert all((part >= 0).all() and (part <= data.train.amax(0) + 1e-6).all() for part in drawn)


def test_all_sides_are_measured_on_as_many_samples_and_the_table_tells_them(data):
    rows = fidelity.compare(data, seconds=0.0, samples=20, steps=2)
    assert [row["name"].split(",")[0] for row in rows] == ["real", "ours", "ours", "peer"]
    assert rows[0]["accuracy"] == 100 and rows[2]["seen"] == rows[3]["seen"] == 200
    lines = fidelity_table({"dim": 8, "samples": 20, "rows": rows})
    assert len(lines) == 6 and len({line.count("|") for line in lines}) == 1
    assert f"{rows[3]['frechet']:.3g}" in lines[-1] and "200 features" in lines[-1]
