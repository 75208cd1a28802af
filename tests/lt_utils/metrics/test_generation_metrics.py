"""Measures of generated images: closed forms, what each must notice, independent implementations, and the names they get."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from torchmetrics.image.inception import InceptionScore
from torchmetrics.image.kid import maximum_mean_discrepancy

from lt_utils.errors import CourseError
from lt_utils.metrics.extractors import encoder_extractor
from lt_utils.metrics.generation import (
    cluster,
    distribution_scores,
    diversity,
    f_scores,
    frechet_distance,
    inception_score,
    kernel_distance,
    label_accuracy,
    measure,
    measure_samples,
)
from lt_utils.metrics.neighbours import BLOCK, group_memorisation, memorisation, nearest, precision_recall
from lt_utils.models.resnet import ResNet


def blob(n, d=8, shift=0.0, scale=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return shift + scale * torch.randn(n, d, generator=generator, dtype=torch.float64)


# ------------------------------------------------------------------------------------------------------- Inception score
def test_inception_score_of_sure_and_of_unsure_answers():
    sure = torch.eye(10).repeat(20, 1)
    assert inception_score(sure, splits=1) == pytest.approx((10, 0))
    assert inception_score(torch.full((50, 10), 0.1), splits=1)[0] == pytest.approx(1)
    assert inception_score(torch.eye(10)[torch.zeros(50, dtype=torch.long)], splits=1)[0] == pytest.approx(1)
    half = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]]).repeat(10, 1)  # entropies by hand
    marginal = -(2 * 0.25 * math.log(0.25) + 0.5 * math.log(0.5))
    assert inception_score(half, splits=1)[0] == pytest.approx(math.exp(marginal - 0.5 * math.log(2)))


def test_inception_score_shuffles_samples_that_come_sorted_by_class():
    sorted_by_class = torch.eye(10).repeat_interleave(100, dim=0)
    assert inception_score(sorted_by_class, splits=10, seed=None)[0] == pytest.approx(1)
    mean, deviation = inception_score(sorted_by_class, splits=10)
    assert 9 < mean < 10 and deviation > 0


@pytest.mark.filterwarnings("ignore")  # the peer was meant to be fed with images
def test_inception_score_against_torchmetrics():
    logits = 3 * torch.randn(400, 7, generator=torch.Generator().manual_seed(0))
    peer = InceptionScore(feature=torch.nn.Identity(), splits=1)
    peer.features.append(logits)
    assert inception_score(logits.softmax(1), splits=1)[0] == pytest.approx(peer.compute()[0].item(), rel=1e-5)


def test_inception_score_refuses_logits_and_too_many_splits():
    with pytest.raises(CourseError, match="softmax"):
        inception_score(torch.randn(20, 5))
    with pytest.raises(CourseError, match="5 samples cannot be split into 10"):
        inception_score(torch.full((5, 4), 0.25))


# ------------------------------------------------------------------------------------------------------- kernel distance
def test_kernel_distance_by_hand():
    x, y = torch.tensor([[1.0], [2.0]]), torch.tensor([[0.0], [3.0]])
    kernel = lambda a, b: (a * b + 1) ** 3  # noqa: E731
    expected = kernel(1, 2) + kernel(0, 3) - 2 * (kernel(1, 0) + kernel(1, 3) + kernel(2, 0) + kernel(2, 3)) / 4
    assert kernel_distance(x, y) == pytest.approx((expected, 0))


def test_kernel_distance_against_torchmetrics():
    x, y = blob(120), blob(120, shift=0.3, seed=1)
    gram = lambda a, b: (a @ b.T / 8 + 1) ** 3  # noqa: E731
    expected = maximum_mean_discrepancy(gram(x, x), gram(x, y), gram(y, y)).item()
    assert kernel_distance(x, y)[0] == pytest.approx(expected, rel=1e-9)


def test_kernel_distance_is_unbiased_and_grows():
    same, deviation = kernel_distance(blob(4000), blob(4000, seed=1), subsets=50, size=200)
    near, far = (kernel_distance(blob(4000), blob(4000, shift=s, seed=1), 50, 200)[0] for s in (0.2, 0.6))
    assert abs(same) < 4 * deviation / 50**0.5 + 2e-3 and abs(same) < 0.1 * near < 0.1 * far
    with pytest.raises(CourseError, match="2 features"):
        kernel_distance(blob(1), blob(5))


# ---------------------------------------------------------------------------------------------------------------- PRD
def test_f_scores_of_the_same_of_disjoint_and_of_half_a_distribution():
    uniform, half = torch.full((4,), 0.25), torch.tensor([0.5, 0.5, 0, 0])
    assert f_scores(uniform, uniform) == pytest.approx((1, 1), abs=1e-6)
    assert f_scores(half, half.flip(0)) == pytest.approx((0, 0), abs=1e-9)
    # Half of the modes: precision 1 with recall 1/2; twice the modes: the other way round.
    weight_recall = 65 * 0.5 / (64 + 0.5)
    weight_precision = (1 + 1 / 64) * 0.5 / (1 / 64 + 0.5)
    assert f_scores(uniform, half) == pytest.approx((weight_recall, weight_precision), rel=3e-3)
    assert f_scores(half, uniform) == pytest.approx((weight_precision, weight_recall), rel=3e-3)


def test_f_8_is_larger_when_recall_is():
    wide, narrow = torch.tensor([0.4, 0.3, 0.2, 0.1]), torch.tensor([0.85, 0.15, 0, 0])
    dropped, spread = f_scores(wide, narrow), f_scores(narrow, wide)
    assert dropped[0] < dropped[1] and spread[0] > spread[1]


def test_f_scores_against_a_loop():
    p, q = (torch.rand(6, generator=torch.Generator().manual_seed(s)).double() for s in (0, 1))
    p, q = p / p.sum(), q / q.sum()
    best8 = best18 = 0.0
    for angle in np.linspace(1e-10, np.pi / 2 - 1e-10, 1001):
        slope = math.tan(angle)
        precision = sum(min(slope * a, b) for a, b in zip(p.tolist(), q.tolist(), strict=True))
        recall = sum(min(a, b / slope) for a, b in zip(p.tolist(), q.tolist(), strict=True))
        best8 = max(best8, 65 * precision * recall / (64 * precision + recall))
        best18 = max(best18, (1 + 1 / 64) * precision * recall / (precision / 64 + recall))
    assert f_scores(p, q) == pytest.approx((best8, best18), rel=1e-9)


def test_clusters_find_far_apart_blobs_and_close_the_distance_as_k_means_does():
    from sklearn.cluster import KMeans

    x = torch.cat([blob(100, 2, shift=10.0 * c, seed=c) for c in range(3)]).float()
    generator = torch.Generator().manual_seed(0)
    place = cluster(x, 12, generator, batch_size=64)
    assert all(len(set(place[start : start + 100].tolist()) & set(place[:start].tolist())) == 0 for start in (100, 200))
    inertia = sum((x[place == one] - x[place == one].mean(0)).square().sum().item() for one in place.unique())
    best = KMeans(12, n_init=3, random_state=0).fit(x.numpy()).inertia_
    assert inertia < 1.6 * best


def test_distribution_scores_see_dropped_and_added_modes():
    four = torch.cat([blob(100, 4, shift=8.0 * c, seed=c) for c in range(4)])
    two = torch.cat([blob(200, 4, shift=8.0 * c, seed=9 + c) for c in range(2)])
    fresh = torch.cat([blob(100, 4, shift=8.0 * c, seed=20 + c) for c in range(4)])
    same = distribution_scores(four, fresh, 20, runs=4)
    dropped, added = distribution_scores(four, two, 20, runs=4), distribution_scores(two, four, 20, runs=4)
    assert min(same) > 0.85 and dropped[0] < 0.6 < dropped[1] and added[1] < 0.6 < added[0]
    assert distribution_scores(four, torch.cat([fresh, fresh]), 20, runs=4) == pytest.approx(same, abs=0.1)
    with pytest.raises(CourseError, match="at least 50"):
        distribution_scores(blob(20), blob(30), 50)


# ------------------------------------------------------------------------------------------- precision, recall, neighbours
def by_loops(real, generated, k):
    real, generated = real.numpy(), generated.numpy()
    radius = lambda x: np.sort(cdist(x, x), axis=1)[:, k]  # noqa: E731
    between = cdist(real, generated)
    return (between < radius(real)[:, None]).any(0).mean(), (between < radius(generated)[None]).any(1).mean()


@pytest.mark.parametrize("k", [1, 3, 5])
def test_precision_and_recall_against_dense_distances(k):
    for shift, scale in ((0.0, 1.0), (0.7, 1.0), (0.0, 0.5), (0.0, 2.0)):
        real, generated = blob(150, 5), blob(120, 5, shift, scale, seed=1)
        assert precision_recall(real, generated, k) == pytest.approx(by_loops(real, generated, k))


def test_precision_and_recall_of_known_sets():
    real = blob(200)
    assert precision_recall(real, real.clone()) == (1.0, 1.0)
    assert precision_recall(real, real + 100) == (0.0, 0.0)
    narrow, wide = (precision_recall(real, blob(200, scale=s, seed=1)) for s in (0.3, 3.0))
    assert narrow[0] > 0.9 > 0.3 > narrow[1] and wide[1] > 0.9 > 0.3 > wide[0]
    with pytest.raises(CourseError, match="more than 5 features"):
        precision_recall(real, real[:5])


def test_blocks_do_not_change_the_result(monkeypatch):
    real, generated = blob(130, 5), blob(110, 5, 0.5, seed=1)
    whole = precision_recall(real, generated), nearest(generated, real)
    assert BLOCK >= 130  # so far in one block
    monkeypatch.setattr("lt_utils.metrics.neighbours.BLOCK", 33)
    assert precision_recall(real, generated) == whole[0]
    for ours, theirs in zip(nearest(generated, real), whole[1], strict=True):
        assert torch.allclose(ours, theirs)


def test_the_comparison_is_strict():
    """Points on a line, distance 1 apart: a point exactly on the k-th neighbour's distance is outside."""
    real = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
    assert precision_recall(real, torch.tensor([[-1.0], [4.0], [-1.0], [4.0]]), k=1)[0] == 0
    assert precision_recall(real, torch.tensor([[-0.9], [4.0], [-1.0], [4.0]]), k=1)[0] == 0.25


def test_nearest_neighbours_against_dense_distances():
    x, y = blob(70, 6), blob(90, 6, seed=1)
    distance, index = nearest(x, y)
    dense = cdist(x.numpy(), y.numpy())
    assert distance.tolist() == pytest.approx(dense.min(1).tolist()) and index.tolist() == dense.argmin(1).tolist()
    copies = y[[5, 3]] + 1000
    distance, index = nearest(copies, y + 1000)  # far from the origin, where a careless formula loses its digits
    assert index.tolist() == [5, 3] and distance.max() < 1e-5


def test_memorisation_is_small_for_copies_and_about_1_for_new_samples():
    training, fresh = blob(300), blob(300, seed=1)
    copies = training[:100] + 0.01 * blob(100, seed=2)
    assert memorisation(copies, training, fresh) < 0.05
    assert memorisation(blob(300, seed=3), training, fresh) == pytest.approx(1, abs=0.1)
    assert memorisation(blob(300, shift=4.0, seed=3), training, fresh) > 3


def test_memorisation_by_group_looks_inside_each_class():
    """Class 1 is memorised; its copies lie far from class 0, which would hide nothing and explain nothing."""
    labels = torch.arange(3).repeat_interleave(100)
    training = torch.cat([blob(100, shift=9.0 * c, seed=c) for c in range(3)])
    fresh = torch.cat([blob(100, shift=9.0 * c, seed=10 + c) for c in range(3)])
    made = torch.cat([blob(100, seed=20), training[100:200] + 0.01, blob(100, shift=18.0, seed=22)])
    found = group_memorisation((made, labels), (training, labels), (fresh, labels), [500, 10, 50])
    assert found["many"] == pytest.approx(1, abs=0.15) and found["medium"] == pytest.approx(1, abs=0.15)
    assert found["few"] < 0.05 and found["all"] == pytest.approx(sum(found[g] for g in ("many", "medium", "few")) / 3)
    kept = labels != 1
    without = group_memorisation((made[kept], labels[kept]), (training, labels), (fresh, labels), [500, 10, 50])
    assert math.isnan(without["few"]) and without["many"] == found["many"]


def test_label_accuracy_overall_and_by_group():
    answers = torch.eye(4)[torch.tensor([0, 0, 1, 2, 2, 0, 3, 0])]
    asked = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
    found = label_accuracy(answers, asked, COUNTS)
    assert found == pytest.approx({"all": 62.5, "many": 75.0, "medium": 50.0, "few": 50.0})


# ---------------------------------------------------------------------------------------------------------- all together
@pytest.fixture(scope="module")
def extractor():
    torch.manual_seed(0)
    return encoder_extractor(ResNet(4, 1, 8, 4, mean=(0.5,), std=(0.2,)).eval(), "judge")


COUNTS = [500, 200, 50, 8]


def sets(generated_shift):
    labels = torch.arange(4).repeat_interleave(60)
    real = torch.cat([blob(60, 16, c, seed=c) for c in range(4)]).float()
    shifts = [generated_shift if c == 3 else 0.0 for c in range(4)]
    drawn = torch.cat([blob(60, 16, c + shifts[c], seed=10 + c) for c in range(4)]).float()
    return (real, labels), (drawn, torch.eye(4)[labels], labels)


def test_all_measures_overall_and_by_group_under_the_extractors_name(extractor):
    real, generated = sets(3.0)
    found = measure(extractor, real, generated, COUNTS, prd_runs=2)
    tag = f"[judge@{extractor.sha256[:8]}]"
    assert list(found) == ["all", "many", "medium", "few"] and [row["n"] for row in found.values()] == [
        240,
        120,
        60,
        60,
    ]
    names = [f"{name}{tag}" for name in ("fd", "kd", "class_score", "f8", "f1/8", "precision_k5", "recall_k5")]
    assert list(found["all"]) == ["n", *names]
    assert list(found["few"]) == ["n", *(name for name in names if "score" not in name)]
    assert not any(name in row for row in found.values() for name in ("fid", "is", "kid"))
    # Only the last class is wrong, and only its group says so loudly.
    assert found["few"][f"fd{tag}"] > 10 * found["medium"][f"fd{tag}"]
    assert found["few"][f"precision_k5{tag}"] < 0.2 < found["medium"][f"precision_k5{tag}"]
    few = frechet_distance(real[0][180:], generated[0][180:])
    assert found["few"][f"fd{tag}"] == pytest.approx(few, rel=1e-6)
    assert found["all"][f"class_score{tag}"] == pytest.approx(3.8, abs=0.2)  # 4, less what ten splits of 24 lose


def test_samples_are_measured_by_features_by_the_judge_and_by_what_they_repeat(extractor):
    images = torch.randint(0, 256, (60, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    labels = torch.arange(60) % 3
    known = (extractor(images)[0], labels)
    judged = torch.eye(3)[torch.where(labels == 2, 0, labels)]  # it takes class 2 for class 0
    found = measure_samples(
        extractor, judged, images, labels, [500, 50, 10], real=known, training=known, fresh=known, prd_runs=1
    )
    assert list(found) == ["all", "many", "medium", "few"]
    assert [round(found[group]["label_accuracy"]) for group in found] == [67, 100, 100, 0]
    alone = measure(extractor, known, (*extractor(images), labels), [500, 50, 10], prd_runs=1)
    assert all(found[group].items() >= row.items() for group, row in alone.items())
    new = (known[0] + 1, labels)  # copies lie nearer to the training images than new ones do
    kwargs = dict(real=known, training=known, fresh=new, prd_runs=1)
    copied = measure_samples(extractor, judged, images, labels, [500, 50, 10], **kwargs)
    assert copied["few"]["distance_ratio"] < 0.01


def test_prd_counts_its_clusters_by_the_smaller_set(extractor):
    """Many real and few generated samples of one distribution: as many clusters as samples would tell them apart."""
    labels, many = torch.arange(4).repeat_interleave(15), torch.arange(4).repeat_interleave(500)
    real = torch.cat([blob(500, 16, 4.0 * c, seed=c) for c in range(4)]).float()
    drawn = torch.cat([blob(15, 16, 4.0 * c, seed=10 + c) for c in range(4)]).float()
    found = measure(extractor, (real, many), (drawn, torch.eye(4)[labels], labels), COUNTS)
    assert found["all"][f"f8[judge@{extractor.sha256[:8]}]"] > 0.8


def test_a_frechet_distance_of_too_few_samples_is_left_out(extractor):
    real, generated = sets(0.0)
    kept = torch.cat([torch.arange(180), torch.arange(180, 190)])  # ten samples of the last class, in 16 dimensions
    found = measure(extractor, real, tuple(part[kept] for part in generated), COUNTS, prd_runs=1)
    tag = f"[judge@{extractor.sha256[:8]}]"
    assert f"fd{tag}" not in found["few"] and f"kd{tag}" in found["few"] and f"fd{tag}" in found["medium"]
    none = measure(extractor, real, tuple(part[:180] for part in generated), COUNTS, prd_runs=1)
    assert none["few"] == {"n": 0}


@pytest.mark.parametrize(
    "value", [frechet_distance, kernel_distance, precision_recall, lambda a, b: distribution_scores(a, b, 4)]
)
def test_features_that_are_not_numbers_or_of_two_encoders_are_refused(value):
    good, broken = blob(30), blob(30, seed=1)
    broken[3, 2] = math.nan
    for pair in ((good, broken), (broken, good)):
        with pytest.raises(CourseError, match="not finite numbers"):
            value(*pair)
    with pytest.raises(CourseError, match="one encoder"):
        value(good, blob(30, d=7))


def test_diversity_is_a_share_of_the_real_one():
    generator = torch.Generator().manual_seed(0)
    real, labels = torch.randn(60, 5, generator=generator), torch.arange(3).repeat_interleave(20)
    pairs = [cdist(real[labels == y], real[labels == y]).sum() / (20 * 19) for y in range(3)]
    other = torch.randn(40, 5, generator=generator)
    which = torch.tensor([0] * 20 + [1] * 19 + [2])
    found = diversity(other, which, real, labels, 3)
    expected = cdist(other[:20], other[:20]).sum() / (20 * 19)
    assert found[0].item() == pytest.approx(100 * expected / pairs[0], rel=1e-6)
    assert found[2].isnan()  # one sample has no distance
    assert torch.allclose(diversity(3 * real, labels, real, labels, 3), torch.full((3,), 300.0, dtype=torch.float64))
