"""One sentence instead of a traceback wall."""

import pytest
from IPython.core.interactiveshell import InteractiveShell

from lt_utils.errors import CourseError, choose


def test_known_names_pass():
    assert choose("head", "linear", ["linear", "cosine"]) == "linear"
    assert choose("head", "linear", (name for name in ("cosine", "linear"))) == "linear"


@pytest.mark.parametrize(
    "name, message",
    [
        ("cosin", "Unknown head 'cosin'. Did you mean 'cosine'? Known: linear, cosine."),
        ("zzz", "Unknown head 'zzz'. Known: linear, cosine."),
        (3, "Unknown head 3. Known: linear, cosine."),
        (None, "Unknown head None. Known: linear, cosine."),
    ],
)
def test_unknown_names_get_the_nearest_and_the_list(name, message):
    with pytest.raises(CourseError) as error:
        choose("head", name, ["linear", "cosine"])
    assert str(error.value) == message


def test_a_course_error_is_a_value_error_and_shows_its_sentence_alone():
    error = CourseError("The disk is full: make room.")
    assert isinstance(error, ValueError) and error._render_traceback_() == ["CourseError: The disk is full: make room."]


def test_ipython_prints_the_sentence_without_a_traceback(capsys):
    shell = InteractiveShell()
    shell.run_cell("from lt_utils.models.heads import build_head\nbuild_head('zzz', 2, 2)")
    told = capsys.readouterr()
    text = (told.out + told.err).strip()
    assert text == "CourseError: Unknown head 'zzz'. Known: linear, cosine, cosine-30, wcdas."
