"""Measured generators: names, rows, paired differences and verdicts; a stored run of notebook 06 as tables."""

import math

import matplotlib.pyplot as plt
import pytest

from lt_utils.viz.image_results import (
    card_results,
    gap_panels,
    generator_rows,
    level_rows,
    paired_rows,
    seed_gaps,
    seeds_of,
    short_names,
    stored_tables,
    value_of,
    verdict,
    verdict_rows,
)
from lt_utils.viz.tables import reference


def test_measures_have_one_short_name_whatever_network_measured():
    judge = {"kd[judge@f6e9cb76]": 1, "few recall_k5[judge@f6e9cb76]": 2, "f1/8[judge@f6e9cb76]": 3, "many": 4}
    assert short_names(judge) == {"kd": 1, "few recall": 2, "f1/8": 3, "many": 4}
    assert short_names({"kid": 1, "few fid": 2, "is": 3, "precision_k5": 4}) == {
        "kd": 1,
        "few fd": 2,
        "class_score": 3,
        "precision": 4,
    }


def test_a_run_of_one_seed_has_its_table_and_no_empty_ones():
    record = reference("06_class_balancing_diffusion")[0]
    whole = stored_tables(record)
    assert "seed by seed" in whole and "Classifiers trained" in whole
    single = stored_tables({key: value for key, value in record.items() if key not in ("paired", "classifiers")})
    assert "seed by seed" not in single and "Classifiers trained" not in single
    assert single.count("| --") == 0 and "kernel distance x 1000" in single and record["note"] in single


def card(few: float) -> dict:
    """A card with two groups at one guidance."""
    rows = {"all": {"n": 8, "kd[j@1]": 0.02}, "few": {"n": 4, "kd[j@1]": 0.1}}
    for row in rows.values():
        row |= {"label_accuracy": few, "memorisation": 1.25, "recall_k5[j@1]": 0.5, "precision_k5[j@1]": 0.5}
    return {"measures": {"omega 1": rows | {"label_accuracy_by_class": [1.0, 2.0]}}}


@pytest.fixture
def results():
    """Balanced is 1, 2 and 3 points better than regular in three seeds; regular has a fourth seed alone."""
    found = {}
    for seed, gap in enumerate((1.0, 2.0, 3.0)):
        found |= card_results(f"regular-seed{seed}", card(80.0)) | card_results(
            f"balanced-seed{seed}", card(80.0 + gap)
        )
    return found | card_results("regular-seed3", card(10.0))


def test_a_card_becomes_results_by_generator_seed_and_guidance(results):
    assert seeds_of(results, "regular", 1.0) == [0, 1, 2, 3] and seeds_of(results, "balanced", 1.0) == [0, 1, 2]
    assert seeds_of(results, "balanced", 0.0) == []
    assert value_of(results, "regular", 0, 1.0, "few", "distance_ratio") == 1.25
    assert value_of(results, "regular", 0, 1.0, "few", "kd") == 0.1
    assert math.isnan(value_of(results, "regular", 0, 2.0, "few", "kd"))


def test_gaps_are_taken_seed_by_seed_where_both_are_there(results):
    assert seed_gaps(results, "balanced", "regular", 1.0, "few", "label_accuracy") == [1.0, 2.0, 3.0]
    line = paired_rows(results, "balanced", "regular", 1.0)[1]
    assert (line["group"], line["n"], line["label_accuracy"], line["kd"]) == ("few", 3, 2.0, 0.0)
    assert line["label_accuracy se"] == pytest.approx(1 / math.sqrt(3), abs=1e-4)
    assert paired_rows(results, "augmented", "regular", 1.0) == []


def test_a_verdict_needs_seeds_and_an_interval_that_leaves_out_zero():
    assert verdict([1.0, 2.0, 3.0]) == "not distinguishable"  # 2 is less than 4.30 times 0.577
    assert verdict([1.9, 2.0, 2.1]) == "better" and verdict([1.9, 2.0, 2.1], lower_is_better=True) == "worse"
    assert verdict([-1.9, -2.0, -2.1]) == "worse" and verdict([-1.9, -2.0, -2.1], lower_is_better=True) == "better"
    assert verdict([5.0]) == verdict([]) == "one run: no interval"
    assert verdict([float("nan")] * 3) == "not distinguishable"


def test_rows_of_a_record_name_every_group(results):
    row = generator_rows(results, data="toy", steps=25)[0]
    assert (row["method"], row["seed"], row["omega"], row["data"], row["steps"]) == ("regular", 0, 1.0, "toy", 25)
    assert (row["label_accuracy"], row["few"], row["images"], row["few images"]) == (80.0, 80.0, 8, 4)
    assert row["few kd[j@1]"] == 0.1 and row["distance_ratio"] == 1.25 and "few label_accuracy" not in row


def test_the_panels_show_every_seed(results):
    figure = gap_panels(results, "balanced", "regular", [1.0], "title")
    assert len(figure.axes) == 3
    seeds = [line.get_xdata() for line in figure.axes[0].lines if len(line.get_xdata()) == 3]
    assert [list(x) for x in seeds] == [[1.0, 2.0, 3.0]] * 2  # all, few
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["all", "few"]
    plt.close(figure)


def test_tables_of_levels_and_of_verdicts(results):
    regular, balanced = level_rows(results, 1.0)
    assert (regular["generator"], regular["seeds"], balanced["seeds"]) == ("regular", 4, 3)
    assert balanced["of the few %"] == (82.0, 1.0) and balanced["KD × 1000"] == (20.0, 0.0)
    lines = verdict_rows(results, "balanced", "regular", 1.0)
    assert len(lines) == 3 * 2 and {line["verdict"] for line in lines} == {"not distinguishable"}
    assert lines[1]["classes"] == "few" and lines[1]["by seed"] == "+1.0, +2.0, +3.0"
    assert lines[1]["difference"] == pytest.approx((2.0, 1 / math.sqrt(3)))
    assert verdict_rows(results, "augmented", "regular", 1.0) == []
