"""What a value of a parameter must be, as its default and its comment say."""

import pytest

from lt_utils.errors import CourseError
from lt_utils.runs.parameters import check, declared, notebook_path, notebooks_folder, notes, whole

KNOWN = {
    "EPOCHS": 15,
    "WARMUP": 0,
    "TOP": 5,
    "RATE": 0.1,
    "OMEGA": 1.0,
    "OMEGAS": [0.0, 1.0],
    "MULTS": [1, 2],
    "PROFILE": "step",
    "SIZE": "",
    "METHODS": ["CE", "WCDAS"],
    "BASES": ["clean"],
    "MORE": ["RS"],
    "ARMS": [],
    "DATASET": "small",
    "IMBALANCE": 100,
}
COMMENTS = {
    "TOP": "# how many; 0: all",
    "OMEGAS": "# strengths; below 0: wider classes",
    "PROFILE": '# how counts fall: "exponential" or "step"',
    "SIZE": '# empty: a small one; "full" or "mid"',
    "METHODS": '# "CE" always; also "Strong"',
    "BASES": '# "clean", "weak", "strong"',
    "MORE": "# rules beside those; empty: none",
    "DATASET": '# bundled; or such as "cifar10" or "cifar100"',
}


@pytest.mark.parametrize(
    "name, value, sentence",
    [
        ("EPOCHS", -1, "EPOCHS must be a number from 1, not -1"),
        ("EPOCHS", 0, "EPOCHS must be a number from 1, not 0"),
        ("WARMUP", -1, "WARMUP must be a number from 0, not -1"),
        ("TOP", -1, "TOP must be a number from 0, not -1"),
        ("RATE", float("nan"), "RATE must be a number from 0, not nan"),
        ("RATE", float("inf"), "RATE must be a number from 0, not inf"),
        ("RATE", -0.1, "RATE must be a number from 0, not -0.1"),
        ("RATE", "1e-3", r"RATE must be a number such as 0.1, not '1e-3' \(str\): YAML wants 1.0e-3\."),
        ("RATE", "1E3", r"not '1E3' \(str\): YAML wants 1.0e\+3\."),
        ("RATE", "1.5e3", r"YAML wants 1.5e\+3\."),
        ("RATE", "0.1", r"\(str\): leave out the quotes\."),
        ("RATE", "fast", r"not 'fast' \(str\)\."),
        ("OMEGAS", [0.0, float("nan")], "OMEGAS has the entry nan, which must be a finite number, not nan"),
        ("OMEGAS", [], "OMEGAS must have at least one entry, such as 0.0"),
        ("MULTS", [1, "two"], r"MULTS has the entry 'two', which must be a whole number such as 1, not 'two' \(str\)"),
        ("MULTS", [1, 0], "MULTS has the entry 0, which must be a number from 1"),
        ("MULTS", [[1]], r"MULTS has the entry \[1\], which must be a whole number"),
        ("PROFILE", "stpe", "PROFILE must be 'exponential' or 'step', not 'stpe'"),
        ("SIZE", "large", "SIZE must be 'full' or 'mid' or '', not 'large'"),
        ("METHODS", ["CE", 3], r"METHODS has the entry 3, which must be text such as 'CE', not 3 \(int\)"),
        ("BASES", ["weak", "srtong"], "BASES has the entry 'srtong', which must be 'clean' or 'weak' or 'strong'"),
        ("IMBALANCE", 0.9, r"IMBALANCE must be a number from 1, not 0.9 \(0: the set as it is\)"),
        ("IMBALANCE", 1e9, "IMBALANCE must be at most 100000, not 1000000000.0"),
    ],
)
def test_values_that_cannot_be_meant_are_refused(name, value, sentence):
    with pytest.raises(CourseError, match=sentence):
        check({name: value}, KNOWN, "03_encoders", COMMENTS)


@pytest.mark.parametrize(
    "name, value",
    [
        ("TOP", 0),
        ("WARMUP", 0),
        ("RATE", 1),
        ("OMEGA", 0),
        ("OMEGAS", [-0.5, 1]),
        ("SIZE", ""),
        ("SIZE", "mid"),
        ("METHODS", ["CE", "another"]),
        ("MORE", []),
        ("ARMS", [["balanced", 300, 64]]),
        ("DATASET", "my-birds"),
        ("IMBALANCE", 12.5),
        ("IMBALANCE", 0),  # the set as it is
    ],
)
def test_values_that_may_be_meant_pass(name, value):
    check({name: value}, KNOWN, "03_encoders", COMMENTS)


@pytest.mark.parametrize(
    "value, default, wanted",
    [(100.0, 100, 100), (12.5, 100, 12.5), (2, 0.1, 2), ([1.0, 2], [1], [1, 2]), ("a", 1, "a")],
)
def test_a_whole_number_with_a_point_is_one(value, default, wanted):
    assert whole(value, default) == wanted and type(whole(value, default)) is type(wanted)


@pytest.mark.parametrize("path", sorted(notebooks_folder().glob("*.ipynb")), ids=lambda path: path.stem[:2])
def test_the_courses_own_defaults_pass_and_each_has_a_comment(path):
    known, comments = declared(path), notes(path)
    check(known, known, path.stem, comments)
    assert known.keys() == comments.keys() and all(comments.values())


def test_comments_are_those_of_the_notebook():
    comments = notes(notebook_path("01_long_tailed_data"))
    assert comments["PROFILE"] == '# how counts fall from head to tail: "exponential" or "step"'
