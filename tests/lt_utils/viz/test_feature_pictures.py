"""Pictures of features: what is drawn lies where the numbers say."""

import math

import pytest
import torch

from lt_utils.viz.feature_pictures import added_in_plane, class_map, clouds_to_scale
from lt_utils.viz.tables import rungs


def test_the_plane_is_that_of_the_widest_directions():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(200, 5, generator=generator) * torch.tensor([0.1, 5.0, 0.1, 2.0, 0.1])
    figure = added_in_plane(features, features[:3], features[3:9], {"a": features[:4], "b": features[:1]}, "title")
    assert [(axes.get_title(loc="left") or axes.get_title()) for axes in figure.axes] == ["a", "b"]
    new, added, real = (points.get_offsets() for points in figure.axes[0].collections)
    assert (len(new), len(added), len(real)) == (6, 4, 3)
    centred = (features - features.mean(0))[:3]
    drawn = torch.as_tensor(real.data).float().abs()
    torch.testing.assert_close(drawn, centred[:, [1, 3]].abs(), atol=0.3, rtol=0)


def test_clouds_have_the_measured_length_angle_and_width_the_way_a_reader_expects():
    """Stored as test / training: a length of 0.5 is drawn, and written, as twice too long."""
    fair = {"views": "fair sample", "length_few": 1.0, "spread_few": 1.0, "direction_few": 1.0}
    clean = {"views": "clean", "length_few": 0.5, "spread_few": 2.0, "direction_few": 0.5}
    figure = clouds_to_scale({"here": [clean, fair], "there": [clean, fair]}, kinds=("clean",))
    axes = figure.axes[0]
    said, test, training = axes.texts[-1], *axes.texts[:2]
    assert tuple(test.xy) == (1.0, 0.0)
    assert tuple(training.xy) == pytest.approx((2 * math.cos(math.pi / 3), 2 * math.sin(math.pi / 3)))
    assert "angle 60°, length 2.00, spread 0.50" in said.get_text()
    assert "(fair sample: 0°, 1.00, 1.00)" in said.get_text()
    wide, tight = (torch.as_tensor(points.get_offsets().data).std(0).mean() for points in axes.collections)
    assert tight / wide == pytest.approx(0.5, abs=0.08)
    assert [(axes.get_title(loc="left") or axes.get_title()) for axes in figure.axes] == ["here", "there"]


def test_rungs_gather_the_views_of_a_method():
    rows = [
        {"method": "A", "views": "clean", "accuracy": (70.0, 1.0)},
        {"method": "B", "views": "clean", "accuracy": 60.0},
        {"method": "A", "views": "strong", "accuracy": (71.0, 2.0)},
    ]
    (first, views), (second, alone) = rungs(rows)
    assert (first, views) == ("A", {"clean": (70.0, 1.0), "strong": (71.0, 2.0)})
    assert second == "B"
    assert alone["clean"][0] == 60.0
    assert math.isnan(alone["clean"][1])


def test_a_map_of_points_in_a_plane_keeps_their_distances_and_names_nearest_rivals():
    places = torch.tensor([[0.0, 0.0], [1.0, 0.0], [6.0, 1.0], [6.0, 3.0]])
    distances = torch.cdist(places, places).fill_diagonal_(math.inf)
    figure = class_map(distances, torch.zeros(4, 1, 8, 8, dtype=torch.uint8), ["a", "b", "c", "d"], "title")
    axes = figure.axes[0]
    drawn = torch.tensor([[(left + right) / 2, (low + high) / 2] for left, right, low, high in
                          (picture.get_extent() for picture in axes.images)])  # fmt: skip
    assert torch.allclose(torch.cdist(drawn, drawn), distances.fill_diagonal_(0), atol=1e-4)
    assert drawn[:, 0].max() - drawn[:, 0].min() > drawn[:, 1].max() - drawn[:, 1].min()
    assert [text.get_text() for text in axes.texts] == ["a 1.0", "b 1.0", "c 2.0", "d 2.0"]
    assert axes.lines[0].get_linewidth() > axes.lines[2].get_linewidth()


def test_names_on_a_map_cover_no_picture_and_no_other_name():
    """Three classes above each other, nearer than a name is high: below each picture its name would lie on the next."""
    places = torch.tensor([[0.0, 0.0], [0.0, 0.9], [0.0, 1.8], [9.0, 0.0]])
    distances = torch.cdist(places, places).fill_diagonal_(math.inf)
    figure = class_map(distances, torch.zeros(4, 1, 8, 8, dtype=torch.uint8), ["one", "two", "three", "four"], "title")
    axes = figure.axes[0]
    pictures = [picture.get_window_extent() for picture in axes.images]
    for text in axes.texts:
        others = [other.get_window_extent() for other in axes.texts if other is not text]
        assert text.get_window_extent().count_overlaps(pictures + others) == 0, text.get_text()
