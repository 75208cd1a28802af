"""Measures of recognition, and statistics over seeds, on cases that can be counted by hand; peers are in the oracle tests."""

import math

import pytest
import torch

from lt_utils.errors import CourseError
from lt_utils.metrics.recognition import (
    accuracy,
    calibration_error,
    class_accuracy,
    full_scores,
    group_accuracy,
    largest_calibration_error,
    macro_f1,
    prior_following,
    reliability,
    scores,
    top_k_accuracy,
    worst_class_accuracy,
)
from lt_utils.metrics.statistics import format_mean, group_differences, mean_error, mean_std, standing

# Six images of three classes; predictions 0 0 1 1 2 0 against labels 0 1 1 1 2 2.
PREDICTED, LABELS = torch.tensor([0, 0, 1, 1, 2, 0]), torch.tensor([0, 1, 1, 1, 2, 2])
LOGITS = torch.nn.functional.one_hot(PREDICTED, 3).float() * 2


def test_accuracies_by_hand():
    assert accuracy(LOGITS, LABELS) == pytest.approx(100 * 4 / 6)
    assert class_accuracy(LOGITS, LABELS).tolist() == pytest.approx([100, 200 / 3, 50])
    assert class_accuracy(LOGITS, LABELS).dtype == torch.float64


def test_a_class_without_test_image_has_no_accuracy():
    found = class_accuracy(torch.cat([LOGITS, torch.zeros(6, 1)], 1), LABELS)
    assert found[:3].isfinite().all() and found[3].isnan()


def test_groups_pool_the_images_of_their_classes():
    assert group_accuracy(LOGITS, LABELS, [500, 400, 5]) == pytest.approx({"many": 75, "few": 50})
    assert group_accuracy(LOGITS, LABELS, [101, 100, 19]) == pytest.approx({"many": 100, "medium": 200 / 3, "few": 50})
    assert group_accuracy(LOGITS, LABELS, [101, 100, 19], many=99, few=10) == pytest.approx({"many": 75, "medium": 50})
    assert list(group_accuracy(LOGITS, LABELS, [5, 50, 500])) == ["many", "medium", "few"]


def test_counts_of_another_class_number_are_refused():
    with pytest.raises(CourseError, match="2 class counts do not fit logits of 3 classes"):
        group_accuracy(LOGITS, LABELS, [500, 5])


def test_reliability_bins_are_open_below_and_closed_above():
    confidence = torch.tensor([0.5, 0.75, 0.750001, 1.0], dtype=torch.float64)
    probabilities = torch.stack([confidence, 1 - confidence], 1)
    share, trust, right = reliability(probabilities, torch.tensor([0, 0, 1, 0]), bins=4)
    assert share.tolist() == [0, 0.25, 0.25, 0.5]
    assert trust.tolist() == pytest.approx([0, 0.5, 0.75, 0.8750005]) and right.tolist() == [0, 1, 1, 0.5]
    assert reliability(torch.zeros(1, 2), torch.tensor([0]))[0].tolist() == [1] + [0] * 14


def test_calibration_error_by_hand_and_its_extremes():
    confidence = torch.tensor([0.9, 0.9, 0.9, 0.6])
    probabilities = torch.stack([confidence, 1 - confidence], 1)
    # Bin of 0.9: two of three right, gap 0.2333; bin of 0.6: right, gap 0.4.
    expected = 100 * (3 / 4 * (0.9 - 2 / 3) + 1 / 4 * 0.4)
    assert calibration_error(probabilities, torch.tensor([0, 0, 1, 0])) == pytest.approx(expected, rel=1e-5)
    sure = torch.tensor([[1.0, 0.0]] * 4)
    assert calibration_error(sure, torch.zeros(4, dtype=torch.long)) == 0
    assert calibration_error(sure, torch.ones(4, dtype=torch.long)) == 100
    assert calibration_error(sure, torch.tensor([0, 1, 0, 1])) == 50


def test_logits_in_the_place_of_probabilities_are_refused():
    with pytest.raises(CourseError, match="softmax"):
        calibration_error(torch.tensor([[3.0, -1.0]]), torch.tensor([0]))


@pytest.mark.parametrize("measure", [reliability, calibration_error])
def test_probabilities_that_are_not_numbers_are_told_as_such(measure):
    with pytest.raises(CourseError, match="not numbers .nan.: look at the network") as error:
        measure(torch.tensor([[0.5, 0.5], [float("nan"), 0.5]]), torch.tensor([0, 1]))
    assert "softmax" not in str(error.value)


def test_scores_are_one_rounded_row():
    row = scores(LOGITS, LABELS, [500, 50, 5])
    assert list(row) == ["accuracy", "many", "medium", "few", "ece"]
    assert row["accuracy"] == 66.67 and row["many"] == 100 and row["medium"] == 66.67 and row["few"] == 50
    confidence = math.exp(2) / (math.exp(2) + 2)
    assert row["ece"] == round(100 * abs(confidence - 4 / 6), 2)


def test_worst_class_top_k_and_f1_by_hand():
    assert worst_class_accuracy(LOGITS, LABELS) == 50
    assert worst_class_accuracy(torch.cat([LOGITS, torch.zeros(6, 1)], 1), LABELS) == 50  # class 3 has no test image
    ranked = torch.tensor([[3.0, 2, 1], [1, 2, 3], [3, 1, 2], [2, 3, 1]])
    labels = torch.tensor([0, 1, 1, 2])
    assert [top_k_accuracy(ranked, labels, k) for k in (1, 2, 3)] == [25, 50, 100]
    # Twice what is right by images and predictions: 2 / (1 + 3), 4 / (3 + 2), 2 / (2 + 1).
    assert macro_f1(LOGITS, LABELS) == pytest.approx(100 * (2 / 4 + 4 / 5 + 2 / 3) / 3)
    assert macro_f1(torch.cat([LOGITS, torch.zeros(6, 1)], 1), LABELS) == pytest.approx(macro_f1(LOGITS, LABELS))
    for k in (0, 4):
        with pytest.raises(CourseError, match=f"There are 3 classes: k must be between 1 and that, not {k}"):
            top_k_accuracy(ranked, labels, k)


def test_largest_calibration_error_by_hand():
    confidence = torch.tensor([0.9, 0.9, 0.9, 0.6])
    probabilities = torch.stack([confidence, 1 - confidence], 1)
    # Bin of 0.9: gap 0.2333, weighs more in the mean; bin of 0.6: gap 0.4.
    assert largest_calibration_error(probabilities, torch.tensor([0, 0, 1, 0])) == pytest.approx(40, rel=1e-5)


def predictions(counts):
    """Logits whose predicted classes come `counts` times."""
    return torch.eye(len(counts))[torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))]


def test_predictions_follow_the_prior_wholly_not_at_all_or_in_between():
    labels, counts = torch.arange(3).repeat_interleave(20), [700, 200, 100]
    assert prior_following(predictions([42, 12, 6]), labels, counts) == pytest.approx(1)
    assert prior_following(predictions([20, 20, 20]), labels, counts) == 0
    between = sum(math.log((1 / 3 + 1e-6) / (q + 1e-6)) for q in (0.6, 0.4, 0.0))
    whole = sum(math.log((1 / 3 + 1e-6) / (q + 1e-6)) for q in (0.7, 0.2, 0.1))
    assert prior_following(predictions([36, 24, 0]), labels, counts) == pytest.approx(between / whole)
    assert math.isnan(prior_following(predictions([42, 12, 6]), labels, [5, 5, 5]))
    one_class = torch.zeros(60, dtype=torch.long)  # of the test set: classes that are not in it add nothing
    assert prior_following(predictions([42, 12, 6]), one_class, counts) == pytest.approx(1)


def test_full_scores_have_all_groups_and_measures():
    row = full_scores(LOGITS, LABELS, [500, 400, 5])
    assert list(row) == ["accuracy", "many", "medium", "few", "ece", "worst", "f1", "top5", "mce", "pdc"]
    assert {k: v for k, v in row.items() if v == v and k in scores(LOGITS, LABELS, [500, 400, 5])} == scores(
        LOGITS, LABELS, [500, 400, 5]
    )
    assert math.isnan(row["medium"]) and row["worst"] == 50 and row["f1"] == 65.56 and row["top5"] == 100
    assert row["mce"] == row["ece"]  # one confidence, one bin
    assert row["pdc"] == round(prior_following(LOGITS, LABELS, [500, 400, 5]), 2)


def test_mean_and_spread_over_seeds():
    assert mean_std([1.0, 2.0, 6.0]) == pytest.approx((3, math.sqrt(7)))
    mean, std = mean_std([5])
    assert mean == 5 and math.isnan(std)
    assert format_mean([79.0, 79.2, 79.4]) == "79.2 ± 0.2 % (3 seeds)" and format_mean([79.06]) == "79.1 % (one run)"
    assert format_mean([1.0, 3.0], "points") == "2.0 ± 1.4 points (2 seeds)"


def test_mean_error_is_the_standard_error_of_the_mean():
    mean, error = mean_error([1.0, 2.0, 3.0])
    assert mean == 2.0
    assert error == pytest.approx(1 / 3**0.5)
    assert math.isnan(mean_error([1.0])[1])  # one value has no spread


def test_standing_takes_the_wider_interval():
    """Three seeds that agree on 4 of 400 images: the interval of the seeds has no width, that of the images has."""
    first, second = torch.zeros(3, 400), torch.zeros(3, 400)
    first[:, :4] = 1
    half, where = standing(first, second)
    assert half == pytest.approx(2 * 100 * first[0].std().item() / 20)
    assert where == "ahead"
    first[0, :40] = 1  # now the seeds disagree: 10, 1, 1 points
    half, where = standing(first, second)
    assert half == pytest.approx(4.303 * 3.0)
    assert where == "cannot tell"
    ahead, behind = torch.ones(3, 400), torch.zeros(3, 400)
    ahead[:, ::4] = 0
    assert standing(ahead, behind)[1] == "ahead"
    assert standing(behind, ahead)[1] == "behind"
    assert standing(ahead[:1], behind[:1])[0] == pytest.approx(2 * 100 * ahead[0].std().item() / 20)


def test_differences_by_group_are_those_of_the_images_of_its_classes():
    labels, counts = torch.tensor([0, 0, 1, 1, 2, 2]), [200, 50, 5]
    one = [torch.tensor([1, 1, 1, 0, 1, 1]), torch.tensor([1, 0, 1, 1, 1, 0])]
    other = [torch.tensor([1, 1, 0, 0, 0, 0]), torch.tensor([1, 1, 0, 1, 0, 0])]
    right = {"a": one, ("b", 2): other}
    rows = group_differences(right, {"a - b": ("a", ("b", 2)), "b - a": (("b", 2), "a")}, labels, counts)
    assert [(row["pair"], row["classes"], row["difference"]) for row in rows] == [
        *[("a - b", *at) for at in (("all", 33.33), ("many", -25.0), ("medium", 50.0), ("few", 75.0))],
        *[("b - a", *at) for at in (("all", -33.33), ("many", 25.0), ("medium", -50.0), ("few", -75.0))],
    ]
    # of the seeds: many 0 and -50, few 100 and 50, so 50 / sqrt(2) / sqrt(2); medium 50 twice
    assert [row["error over seeds"] for row in rows[1:4]] == [25.0, 0.0, 25.0]
    single = group_differences({"a": one[:1], "b": other[:1]}, {"a - b": ("a", "b")}, labels, counts)
    assert {row["error over seeds"] for row in single} == {None} and single[0]["error over images"] > 0
