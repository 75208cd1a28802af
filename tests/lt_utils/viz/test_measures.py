"""Drawings of measures: balls count what they show, a verdict needs more than the spread of real images, tables are complete."""

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from matplotlib.colors import to_hex  # noqa: E402
from matplotlib.patches import Circle, Rectangle  # noqa: E402

from lt_utils.metrics import precision_recall  # noqa: E402
from lt_utils.viz import measures  # noqa: E402

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture
def points():
    random = torch.Generator().manual_seed(1)
    return torch.randn(20, 2, generator=random), 0.7 * torch.randn(9, 2, generator=random) + 0.5


def test_balls_show_precision_and_recall_as_they_are_measured(points):
    real, made = points
    figure, (left, right) = plt.subplots(1, 2)
    found = (
        measures.balls(left, real, made, 2, "precision", made=False),
        measures.balls(right, made, real, 2, "recall", made=True),
    )
    assert found == precision_recall(real, made, k=2) and 0 < found[1] < found[0]
    assert left.get_title() == f"precision: {round(9 * found[0])} of 9 in a ball"
    assert sum(isinstance(patch, Circle) for patch in left.patches) == 2 * 20
    filled = [line for line in right.lines if line.get_marker() == "o" and line.get_markerfacecolor() != "white"]
    assert len(filled[0].get_xdata()) == round(20 * found[1])
    measures.balls(left, made, real, 2, "again", made=True)  # drawn anew, not on top
    assert sum(isinstance(patch, Circle) for patch in left.patches) == 2 * 9


@pytest.mark.parametrize(
    "name, value, said",
    [
        ("fd", 0.21, ""),
        ("fd", 0.41, "noticed"),
        ("fd", -0.01, "praised"),
        ("recall", 0.31, "praised"),
        ("recall", -0.01, "noticed"),
        ("distance ratio", 0.31, "noticed"),
        ("distance ratio", -0.01, "noticed"),
        ("distance ratio", 0.15, ""),
    ],
)
def test_a_verdict_needs_more_than_the_spread_of_real_images(name, value, said):
    assert measures.verdict(name, value, [0.2, 0.1, 0.15]) == said


def test_a_table_has_all_images_and_numbers():
    usual = [{"kd": -0.001, "label accuracy": 90.0}, {"kd": 0.1, "label accuracy": 92.0}]
    rows = {"real": usual[0], "bad": {"kd": 0.9, "label accuracy": 99.0}}
    images = {name: torch.randint(256, (4, 1, 8, 8), dtype=torch.uint8) for name in rows}
    axes = measures.image_table(rows, images, usual, "Title").axes[0]
    texts = [text.get_text() for text in axes.texts]
    assert texts == ["real", "0.00", "90", "bad", "0.90", "99", "KD ↓", "label\n% ↑", "Title"]
    assert len(axes.images) == 8 and (axes.images[4].get_array() == images["bad"][0, 0].numpy()).all()
    colours = [to_hex(patch.get_facecolor()).upper() for patch in axes.patches if isinstance(patch, Rectangle)]
    assert colours == ["#FFFFFF", "#FFFFFF", measures.COLOURS["noticed"], measures.COLOURS["praised"]]


def test_images_stand_at_their_places_and_clouds_have_their_ellipse(points):
    figure, (left, right) = plt.subplots(1, 2)
    images = torch.randint(256, (2, 3, 8, 8), dtype=torch.uint8)
    measures.image_map(left, images, torch.tensor([[1.0, 2.0], [-3.0, 0.0]]), "#0072B2", ((-7.5, 7.5), (-15, 15)))
    assert left.images[0].get_extent() == [0.5, 1.5, 1.0, 3.0] and left.get_xlim() == (-7.5, 7.5)
    measures.clouds(right, *points, "two")
    for place, cloud in ((1, points[0]), (3, points[1])):
        ellipse = torch.tensor(right.lines[place].get_xydata()) - cloud.double().mean(0)
        inverse = torch.linalg.inv(cloud.double().T.cov())
        torch.testing.assert_close((ellipse @ inverse * ellipse).sum(1), torch.full((100,), 4.0).double())


def test_what_is_not_noticed_is_listed_by_number():
    usual = [{"kd": 0.0, "recall": 0.9}, {"kd": 0.1, "recall": 0.92}]
    rows = {
        "copies": {"kd": 0.05, "recall": 0.1},
        "lumps": {"kd": 0.06, "recall": 0.91},
        "luck": {"kd": -1.0, "recall": 0.2},
    }
    assert measures.unnoticed(rows, usual) == [
        {"measure": "kd", "does not notice": "copies, lumps", "praises": "luck"},
        {"measure": "recall", "does not notice": "lumps", "praises": ""},
    ]


def test_histograms_add_up_and_answers_are_shown():
    figure, (left, right) = plt.subplots(1, 2)
    measures.histograms(left, {"real": torch.tensor([0, 1, 1, 2]), "made": torch.tensor([2, 2])}, 4, "two")
    assert [bar.get_height() for bar in left.patches] == [0.25, 0.5, 0.25, 0, 0, 0, 1, 0]
    measures.answers(right, torch.eye(3), "sure")
    assert right.images[0].get_array().shape == (3, 3)
