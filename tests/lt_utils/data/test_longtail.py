"""Long-tail rules: published counts, published subsets (by their hashes), groups, and what is refused."""

import hashlib
import itertools
import math

import numpy as np
import pytest
import torch

from lt_utils.data import longtail
from lt_utils.data.longtail import class_counts, class_table, group_indices, group_of, hold_out, subset
from lt_utils.errors import CourseError

CIFAR10_IF100 = [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
CIFAR10_IF1000 = [5000, 2320, 1077, 500, 232, 107, 50, 23, 10, 5]
CIFAR10_IF10 = [5000, 3871, 2997, 2320, 1796, 1391, 1077, 834, 645, 500]
COURSE_IF100 = [1000, 599, 359, 215, 129, 77, 46, 27, 16, 10]


@pytest.mark.parametrize(
    ("n_max", "imbalance", "counts"),
    [(5000, 100, CIFAR10_IF100), (5000, 1000, CIFAR10_IF1000), (5000, 10, CIFAR10_IF10), (1000, 100, COURSE_IF100)],
)
def test_published_counts_with_ten_classes(n_max, imbalance, counts):
    assert class_counts(n_max, 10, imbalance) == counts


@pytest.mark.parametrize(
    ("imbalance", "total", "head", "tail"),
    [
        (100, 10847, [500, 477, 455, 434, 415, 396, 378, 361, 344, 328, 314, 299], [6, 6, 6, 6, 5, 5, 5, 5]),
        (50, 12608, [500], [10]),
        (10, 19573, [500, 488, 477, 466, 455, 445, 434, 424], [53, 52, 51, 50]),
    ],
)
def test_published_counts_with_a_hundred_classes(imbalance, total, head, tail):
    counts = class_counts(500, 100, imbalance)
    assert sum(counts) == total
    assert counts[: len(head)] == head
    assert counts[-len(tail) :] == tail


def test_published_totals_with_ten_classes():
    assert [sum(class_counts(5000, 10, f)) for f in (100, 1000, 10)] == [12406, 9324, 20431]
    assert sum(COURSE_IF100) == 2478


@pytest.mark.parametrize("imbalance", [2, 5, 10, 20, 50, 100, 200, 256, 500])
@pytest.mark.parametrize("n_max", [500, 1000, 1280, 5000])
@pytest.mark.parametrize("classes", [10, 100, 1000])
def test_counts_equal_the_bare_floor_of_the_published_programs(n_max, classes, imbalance):
    rho = 1 / imbalance
    assert class_counts(n_max, classes, imbalance) == [
        math.floor(n_max * rho ** (i / (classes - 1))) for i in range(classes)
    ]


def test_step_profile():
    assert class_counts(1000, 10, 100, profile="step") == [1000] * 5 + [10] * 5
    assert class_counts(500, 5, 10, profile="step") == [500] * 3 + [50] * 2  # an odd number: the head gets one more


def test_factor_one_is_balanced():
    assert class_counts(300, 4, 1) == class_counts(300, 4, 1, profile="step") == [300] * 4
    assert class_counts(7, 1, 5) == [7]


def test_the_largest_possible_factor_leaves_one_image_in_the_last_class():
    """Also where n * (1 / n) falls just below 1 in double precision, as for 49."""
    assert 49 * (1 / 49) < 1
    assert all(class_counts(n, 10, n)[-1] == 1 for n in range(1, 2000))


@pytest.mark.parametrize("imbalance", [0.99, 0, -3, math.nan, math.inf])
def test_factor_below_one_is_refused(imbalance):
    with pytest.raises(CourseError, match="at least 1"):
        class_counts(5000, 10, imbalance)


def test_factor_that_empties_a_class_is_refused_with_the_class_and_the_largest_factor():
    with pytest.raises(CourseError, match=r"leaves class 90 empty.* largest possible factor is 500"):
        class_counts(500, 100, 1000)
    with pytest.raises(CourseError, match=r"class 2 \(cat\)"):
        class_counts(10, 3, 11, class_names=["bird", "dog", "cat"])


def test_unknown_profile_lists_the_known_ones():
    with pytest.raises(CourseError, match=r"Did you mean 'step'.*exponential, step"):
        class_counts(5000, 10, 10, profile="stepp")


@pytest.mark.parametrize(("n_max", "classes"), [(0, 10), (100, 0)])
def test_nothing_to_count_is_refused(n_max, classes):
    with pytest.raises(CourseError, match="must be >= 1"):
        class_counts(n_max, classes, 10)


@pytest.mark.parametrize(
    ("per_class", "classes", "first", "last", "digest"),
    [
        (
            *(5000, 10, [398, 3833, 4836, 4572, 636], [2204, 3816, 2206, 2507, 1926]),
            "8a54f5b6fa9722952358bc99897aa969bc20f845d0b15034e5013337df1e4ec7",
        ),
        (
            *(500, 100, [90, 254, 283, 445, 461], [348, 153, 363, 361, 299]),
            "f123ec136d44ab1b224fe55bb8a73ab03432d25a81975af68f26fb6777d5aca8",
        ),
    ],
)
def test_the_published_subset_is_chosen(per_class, classes, first, last, digest):
    """Ranks within the class do not depend on how the classes are mixed in the file: here they are mixed."""
    labels = np.random.default_rng(1).permutation(np.repeat(np.arange(classes), per_class))
    rank = np.empty_like(labels)
    for c in range(classes):
        rank[labels == c] = np.arange(per_class)
    counts = class_counts(per_class, classes, 100)
    ranks = rank[subset(labels, counts, seed=0).numpy()]
    assert ranks[:5].tolist() == first
    assert ranks[-counts[-1] :][:5].tolist() == last
    assert hashlib.sha256(ranks.astype("<i8").tobytes()).hexdigest() == digest


def test_subset_keeps_the_counts_and_follows_its_seed():
    labels = torch.arange(300) % 3
    chosen = subset(labels, [50, 20, 0], seed=3)
    assert chosen.dtype == torch.int64
    assert torch.bincount(labels[chosen], minlength=3).tolist() == [50, 20, 0]
    assert len(set(chosen.tolist())) == 70
    assert torch.equal(chosen, subset(labels.tolist(), [50, 20, 0], seed=3))
    assert not torch.equal(chosen, subset(labels, [50, 20, 0], seed=4))


def test_subset_leaves_numpys_global_generator_alone():
    np.random.seed(5)
    before = np.random.get_state()[1].copy()
    subset([0, 1, 0, 1], [1, 1])
    assert np.array_equal(before, np.random.get_state()[1])


def test_asking_for_more_images_than_there_are_is_refused():
    with pytest.raises(CourseError, match=r"6 images are asked of class 1 \(dog\), which has 5"):
        subset([0] * 9 + [1] * 5, [9, 6], class_names=["cat", "dog"])
    with pytest.raises(CourseError, match="-1 images"):
        subset([0, 1], [-1, 1])


def test_labels_beyond_the_counts_are_refused():
    with pytest.raises(CourseError, match="Labels run from 0 to 2, but there are 2 counts"):
        subset([0, 1, 2], [1, 1])


def test_hold_out_splits_every_class():
    labels = torch.tensor([0] * 20 + [1] * 7 + [2] * 2)
    stays, moved = hold_out(labels, "abc", fraction=0.1, seed=0)
    assert torch.bincount(labels[moved]).tolist() == [2, 1, 1]  # rounded, but at least one
    assert torch.equal(torch.cat([stays, moved]).sort().values, torch.arange(29))
    assert torch.equal(stays, stays.sort().values)
    assert not torch.equal(moved, hold_out(labels, "abc", fraction=0.1, seed=1)[1])


def test_hold_out_that_leaves_a_class_empty_is_refused():
    with pytest.raises(CourseError, match=r"2 of the 2 images of class 1 \(b\)"):
        hold_out([0, 0, 0, 1, 1], "ab", per_class=2)
    with pytest.raises(CourseError, match="either per_class"):
        hold_out([0, 0, 1, 1], "ab")
    with pytest.raises(CourseError, match="either per_class"):
        hold_out([0, 0, 1, 1], "ab", per_class=1, fraction=0.5)


def test_groups_of_cifar100_lt():
    groups = group_of(class_counts(500, 100, 100))
    assert [groups.count(name) for name in longtail.GROUPS] == [35, 35, 30]


@pytest.mark.parametrize(
    "n_max, classes, imbalance, total, groups",
    [
        (5000, 10, 100, 12406, (8, 2, 0)),
        (5000, 10, 10, 20431, (10, 0, 0)),
        (500, 100, 10, 19573, (69, 31, 0)),
        (5000, 10, 20, 17023, None),
        (5000, 10, 50, 13996, None),
        (5000, 10, 200, 11203, None),
        (500, 100, 20, 15907, None),
        (500, 100, 200, 9502, None),
    ],
)
def test_totals_and_groups_of_the_cifar_sets_of_livt(n_max, classes, imbalance, total, groups):
    counts = class_counts(n_max, classes, imbalance)
    assert sum(counts) == total
    if groups:
        assert tuple(group_of(counts).count(name) for name in longtail.GROUPS) == groups


def test_group_bounds():
    assert group_of([101, 100, 20, 19]) == ["many", "medium", "medium", "few"]
    assert group_of([8, 5, 3, 2], many=5, few=3) == ["many", "medium", "medium", "few"]
    assert group_indices([5, 200, 50, 6]) == {"many": [1], "medium": [2], "few": [0, 3]}
    assert list(group_indices([5, 200])) == ["many", "few"]
    with pytest.raises(CourseError, match="few <= many"):
        group_of([1], many=5, few=10)


def test_class_table_is_aligned_and_sums_up():
    names = [f"class number {i}" for i in range(10)]
    lines = class_table(COURSE_IF100, names).splitlines()
    assert lines[2].split() == ["0", "class", "number", "0", "1,000", "40.4%", "many"]
    column = lines[0].index("images") + len("images")
    assert all(line[column - 1].isdigit() and line[column] == " " for line in lines[2:12])
    assert [line.split()[:3] for line in lines[-5:-2]] == [
        ["many:", "5", "classes"],
        ["medium:", "3", "classes"],
        ["few:", "2", "classes"],
    ]
    assert lines[-2].split() == ["all:", "10", "classes", "2,478", "100.0%"]
    assert lines[-1] == "imbalance factor (largest / smallest class): 100"


def test_class_table_of_many_classes_shows_both_ends():
    lines = class_table(class_counts(500, 100, 100), [str(i) for i in range(100)], limit=6).splitlines()
    assert [line.split()[0] for line in lines[2:9]] == ["0", "1", "2", "…", "97", "98", "99"]
    assert "10,847" in lines[-2]


def test_class_table_needs_a_name_for_each_count():
    with pytest.raises(CourseError, match="3 counts but 2 class names"):
        class_table([3, 2, 1], ["a", "b"])


# --- class orders


def test_latin_square_has_every_class_once_at_every_place():
    square = np.array(longtail.latin_square(7))
    assert all(sorted(line) == list(range(7)) for line in (*square, *square.T))
    assert square[0].tolist() == list(range(7))


def test_some_rows_of_a_latin_square_are_evenly_spaced():
    assert [row[0] for row in longtail.latin_square(100, 10)] == list(range(0, 100, 10))
    assert longtail.latin_square(10, 2)[1] == [5, 6, 7, 8, 9, 0, 1, 2, 3, 4]


def test_ordered_counts_are_the_counts_the_other_way_round():
    counts = [1000, 100, 10]
    for order in itertools.permutations(range(3)):
        given = longtail.ordered_counts(counts, order)
        assert [given[c] for c in order] == counts


@pytest.mark.parametrize("order", [[0, 1], [0, 1, 1], [1, 2, 3], [0, 1, 2, 3], []])
def test_an_order_that_is_no_permutation_is_refused(order):
    with pytest.raises(CourseError, match="names each of the classes 0 to 2 once"):
        longtail.ordered_counts([3, 2, 1], order)


@pytest.mark.parametrize(
    "call, sentence", [((1,), "at least two classes"), ((5, 0), "1 to 5 orders"), ((5, 6), "1 to 5 orders")]
)
def test_a_latin_square_that_is_none_is_refused(call, sentence):
    with pytest.raises(CourseError, match=sentence):
        longtail.latin_square(*call)


def test_fewer_images_of_a_class_are_the_first_of_more():
    """Subsets are nested: along a sweep of counts the images of a class come and go, they are not drawn anew."""
    labels = np.arange(300) % 3
    large, small = (longtail.subset(labels, counts, seed=4).tolist() for counts in ([90, 50, 10], [20, 50, 5]))
    assert small == [*large[:20], *large[90:140], *large[140:145]]


@pytest.mark.parametrize(
    ("counts", "groups"),
    [
        ([60, 50, 40, 30, 20], "many many many medium few"),  # 3, 1 and 1 of five, as LDMLR's thirds
        ([20, 30, 60, 50, 40], "few medium many many many"),  # by counts, in whatever order
        ([60, 15], "many few"),
        ([6, 5], "many few"),
        ([100, 60, 60, 60, 60, 3], "many many many many many few"),  # equal counts stay together
        ([60] * 10, "medium " * 10),  # nothing to divide
        ([101, 30, 20, 19], "many medium medium few"),
    ],
)
def test_a_set_without_a_large_class_is_grouped_by_thirds(counts, groups):
    assert group_of(counts) == groups.split()
    said = "thirds of the classes" in class_table(counts, "abcdefghij"[: len(counts)])
    assert said == (max(counts) <= 100 and len(set(counts)) > 1)
