"""The benchmarks: that they measure what they say, on inputs whose answer is known. Speed is not tested."""

import json
import sys

import pytest
import torch
from PIL import Image
from torch import nn

from benchmarks import encoder, fidelity, images, latent, measure, measures, ranks, vit
from benchmarks.page import fidelity_table, measures_table, processes_table, rounded, short, span
from lt_utils.errors import CourseError
from lt_utils.features.encoding import Encoded
from lt_utils.models.unet import UNet


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


def test_the_u_net_of_diffusers_has_exactly_as_many_parameters_as_ours():
    ours, theirs = (
        sum(weight.numel() for weight in images.NETWORKS[side]().parameters()) for side in ("ours", "diffusers")
    )
    assert ours == theirs == 35_797_507


def test_the_loop_of_the_image_benchmark_trains_whatever_network_it_is_given():
    model = UNet(3, images.CLASSES, 32, (1, 2), attention=(), blocks=1)
    start = [weight.clone() for weight in model.parameters()]
    seen = []
    hook = model.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    for balanced in (False, True):
        training = images.training(model, batch=2, precision="fp32", balanced=balanced)
        assert [next(training), next(training)] == [2, 4]
    hook.remove()
    assert seen == [2, 2, 4, 4]  # class-balancing shows each image under two labels
    assert any(not torch.equal(one, two) for one, two in zip(start, model.parameters(), strict=True))
    done = images.sampling(model, batch=5, precision="fp32")
    assert [next(done), next(done)] == [5 / 50, 10 / 50]


def test_sides_take_turns_and_the_first_turn_is_not_counted(monkeypatch):
    now, order = [0.0], []
    monkeypatch.setattr(measure, "now", lambda: now[0])

    def side(name, seconds):
        """Two items after so many seconds; the first time it takes a hundred times as long."""
        for number in range(1, 1000):
            order.append(name)
            now[0] += seconds * (100 if number == 2 else 1)
            yield 2 * number

    pairs = measure.turns(side("one", 0.25), side("other", 0.5), seconds=100)
    assert pairs and all(pair == pytest.approx((8, 4)) for pair in pairs)
    # One item each to begin with, then the long first turns, then 1 s each: 4 times 0.25 s and 2 times 0.5 s.
    assert order[:4] == ["one", "other", "other", "one"]
    assert order[4:16] == ["one"] * 4 + ["other"] * 4 + ["one"] * 4


def test_every_side_of_the_speed_table_counts_what_it_does():
    images_ours = next(encoder.loop("ours", 32, "autoaugment"))
    first = [images_ours, next(latent.loop("ours", "train")), next(latent.loop("peer", "sample"))]
    assert first == [32, 256, 0.256]


@pytest.mark.parametrize(("side", "how"), [("ours", {}), ("peer", {"workers": 0})])
def test_the_accuracy_is_that_of_the_views_asked_for(monkeypatch, capsys, side, how):
    asked = []

    def train(data, steps, batch, **rest):
        asked.append((steps, batch, rest))
        yield 0, encoder.network()[0]

    monkeypatch.setattr(encoder, side, train)
    monkeypatch.setattr(sys, "argv", ["encoder", side, "256", "autoaugment", "--epochs", "1"])
    encoder.main()
    images = len(encoder.load().train_labels)
    assert asked == [(-(-images // 256), 256, {"augment": "autoaugment", **how})]
    assert 0 <= json.loads(capsys.readouterr().out)["accuracy"] <= 100


def test_the_peer_s_views_are_those_that_the_task_names():
    grey = Image.new("RGB", (32, 32), (128, 128, 128))
    torch.manual_seed(0)
    weak, strong = (torch.stack([encoder.views(augment)(grey) for _ in range(40)]) for augment in encoder.AUGMENT)
    # Normalised, a pixel of exactly 0 is one of the erased square of 16 x 16; AutoAugment changes the grey of some images.
    assert not (weak == 0).any() and ((strong == 0).all(1).sum((1, 2)) >= 16 * 16).all()
    assert weak.amax((0, 2, 3)).tolist() == pytest.approx(weak[0].amax((1, 2)).tolist())
    assert len(strong[:, 0].amax((1, 2)).unique()) > 3
    with pytest.raises(CourseError, match="autoaugment"):
        encoder.views("auto")


@pytest.mark.parametrize("name", measures.IN_TORCHMETRICS)
@pytest.mark.filterwarnings("ignore:Metric `Kernel Inception Distance`")
def test_torchmetrics_measures_the_same_as_ours(name):
    torch.manual_seed(0)
    real, generated = torch.randn(300, 12), torch.randn(300, 12) + 0.3
    theirs = float(torch.as_tensor(measures.by_torchmetrics(name, 300, 12)(real, generated)).flatten()[0])
    ours = measures.MEASURES[name][1](real, generated)
    assert (ours if isinstance(ours, float) else ours[0]) == pytest.approx(theirs, rel=1e-4)


def test_the_page_tells_measures_and_ratios():
    ours, theirs = {"seconds": 1.26, "memory": 1234}, {"seconds": 20.0, "memory": 2000}
    lines = measures_table([{"name": "A", "ours": ours, "torchmetrics": theirs}, {"name": "B", "ours": ours}], 10_000)
    assert lines[2:] == ["| A | 1.3 s, 1,234 MB | 20.0 s, 2,000 MB |", "| B | 1.3 s, 1,234 MB |  |"]
    assert "10,000 against 10,000" in lines[0]
    assert (short(1.7123), short(1943.0), rounded(0.54261), rounded(785.2)) == ("1.71", "1,940", "0.543", "785")
    assert span([2.0, 1.9, 1.95, 3.0, 1.5]) == "1.95 (1.9 to 2)"


def test_processes_are_measured_together_and_their_table_has_ratios_of_each_round(tmp_path):
    rate = ranks.measured("vit", 0.0, tmp_path / "rate.json")
    assert 0 < rate == ranks.measured("vit", 0.0, tmp_path / "rate.json")
    rows = [{"name": "a", "one": [100, 10], "threads": [100, 20], "processes": [150, 20]}]
    assert processes_table(rows)[2] == "| a | 55 | 60 | 85 | 1.75 (1.62 to 1.88) | 1.25 (1.12 to 1.38) |"


def test_timms_transformer_is_as_large_as_ours_and_takes_turns_with_it():
    sizes = [sum(weight.numel() for weight in vit.network(side, "nano").parameters()) for side in ("ours", "timm")]
    assert sizes == [204_938, 204_938]
    assert next(vit.loop("timm")) == next(vit.loop("ours")) == 64
