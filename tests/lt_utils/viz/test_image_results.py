"""A stored run of notebook 06 as tables: runs of one seed, and of the original Inception, as well."""

from lt_utils.viz.image_results import short_names, stored_tables
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
