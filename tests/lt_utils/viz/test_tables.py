"""Tables: averages over seeds, paired differences, and how they are shown."""

import math

import pytest
from numpy.random import RandomState

from lt_utils.errors import CourseError
from lt_utils.metrics.statistics import student
from lt_utils.viz import tables
from lt_utils.viz.tables import average, cell, markdown, paired


def rows_of(method, values, **columns):
    place = {"data": "d", "imbalance": 100}
    return [{"method": method, "seed": seed, "accuracy": v, **place, **columns} for seed, v in enumerate(values)]


def test_average_is_mean_and_sample_deviation():
    line = average(rows_of("CE", [70.0, 72.0, 74.0]) + rows_of("Label shift", [80.0]))
    assert line[0] == {"method": "CE", "n": 3, "accuracy": (72.0, 2.0)}
    assert line[1]["n"] == 1 and math.isnan(line[1]["accuracy"][1])


def test_what_a_seed_does_to_both_methods_cancels():
    """Seeds move both methods by tens of points, the difference is always two: no error at all."""
    base = [10.0, 50.0, 90.0]
    (line,) = paired(rows_of("CE", base) + rows_of("Label shift", [v + 2 for v in base]), "CE")
    assert line["method"] == "Label shift" and line["n"] == 3
    assert (
        line["difference"] == pytest.approx(2) and line["se"] == pytest.approx(0) and line["half"] == pytest.approx(0)
    )


def test_standard_error_by_hand():
    """Differences 1, 2, 3: standard deviation 1, standard error 1 / sqrt(3), interval +- 4.303 / sqrt(3)."""
    (line,) = paired(rows_of("a", [0.0, 0.0, 0.0]) + rows_of("b", [1.0, 2.0, 3.0]), "a")
    assert line["difference"] == pytest.approx(2)
    assert line["se"] == pytest.approx(1 / math.sqrt(3))
    assert line["half"] == pytest.approx(4.303 / math.sqrt(3))
    assert line["differences"] == [1.0, 2.0, 3.0]


def test_rows_are_paired_by_seed_not_by_place():
    shuffled = rows_of("b", [1.0, 11.0, 21.0])[::-1]
    (line,) = paired(rows_of("a", [0.0, 10.0, 20.0]) + shuffled, "a")
    assert line["differences"] == [1.0, 1.0, 1.0]


def test_rows_without_partner_are_left_out():
    rows = rows_of("a", [0.0, 1.0]) + rows_of("b", [5.0, 6.0, 7.0]) + rows_of("c", [9.0], data="another")
    (line,) = paired(rows, "a")
    assert line["method"] == "b" and line["n"] == 2


def test_one_pair_has_no_spread():
    (line,) = paired(rows_of("a", [1.0]) + rows_of("b", [4.0]), "a")
    assert line["difference"] == 3 and math.isnan(line["se"]) and math.isnan(line["half"])


def test_unknown_baseline_and_doubled_rows_are_refused():
    rows = rows_of("Label shift", [1.0])
    with pytest.raises(CourseError, match="Did you mean 'Label shift'"):
        paired(rows, "label shift")
    with pytest.raises(CourseError, match="Two rows of 'Label shift'"):
        paired(rows + rows, "Label shift")


def test_student_quantiles_against_scipy():
    scipy = pytest.importorskip("scipy.stats")
    for n in range(2, 11):
        assert student(n) == pytest.approx(scipy.t.ppf(0.975, n - 1), abs=6e-4)
    assert student(50) == student(10) > scipy.t.ppf(0.975, 49)
    with pytest.raises(CourseError, match="at least two"):
        student(1)


def test_the_interval_covers_the_truth_in_95_of_100_studies():
    draw = RandomState(0)
    covered = 0
    for _ in range(2000):
        a, noise = draw.randn(3) * 5, draw.randn(3)
        (line,) = paired(rows_of("a", a) + rows_of("b", a + 1 + noise), "a")
        covered += abs(line["difference"] - 1) <= line["half"]
    assert 0.935 < covered / 2000 < 0.965


def test_how_values_are_shown():
    assert cell((79.06, 0.42)) == "79.1 ± 0.4" and cell((79.06, float("nan"))) == "79.1"
    assert cell(float("nan")) == cell((float("nan"), float("nan"))) == "n/a"
    assert cell(None) == "–" and cell(12406) == "12,406" and cell("CE") == "CE"
    table = markdown([{"method": "CE", "accuracy": 71.26}, {"method": "Label shift", "accuracy": None}])
    assert table.splitlines() == [
        "| method | accuracy |",
        "|:--|--:|",
        "| CE | 71.3 |",
        "| Label shift | – |",
    ]


def test_pivot_puts_rows_side_by_side_and_refuses_two_in_one_cell():
    rows = [
        {"method": "A", "views": "clean", "accuracy": 1.0},
        {"method": "B", "views": "clean", "accuracy": (2.0, 0.1)},
        {"method": "A", "views": "strong", "accuracy": 3.0},
        {"method": "A", "views": "other", "accuracy": 9.0},
        {"method": "C", "views": "clean"},
    ]
    named = {"clean": "first", "strong": "second"}
    made = tables.pivot(rows, "method", lambda row: named.get(row["views"]))
    assert made == [{"method": "A", "first": 1.0, "second": 3.0}, {"method": "B", "first": (2.0, 0.1)}]
    with pytest.raises(CourseError, match="Two rows of 'A'"):
        tables.pivot(rows, "method", lambda row: "all")


def test_side_by_side_names_columns_by_record():
    stored = {
        "X": {"rows": [{"method": "A", "accuracy": 1.0, "accuracy std": 0.5}, {"method": "B", "accuracy": 2.0}]},
        "Y": {"rows": [{"method": "B", "accuracy": 3.0}]},
    }
    lines = tables.side_by_side(stored, lambda row: "all")
    assert list(lines.values()) == [
        {"method": "A", "X, all": (1.0, 0.5)},
        {"method": "B", "X, all": 2.0, "Y, all": 3.0},
    ]
