"""Shapes that would broadcast, labels that are none, options that would be ignored: refused by every measure and network."""

import pytest
import torch

from lt_utils import features, metrics, recognition
from lt_utils.errors import CourseError
from lt_utils.features import statistics
from lt_utils.features.encoding import Encoded
from lt_utils.features.retraining import fit_head, retrain_head
from lt_utils.features.views import Views
from lt_utils.metrics.recognition import is_right
from lt_utils.models import FeatureUNet, ResidualMLP, ResNet, UNet, encode

N, C, D = 12, 3, 4
LABELS = torch.arange(N) % C
LOGITS = torch.nn.functional.one_hot(LABELS, C).float() * 8  # a perfect classifier
FEATURES = torch.rand(N, D, generator=torch.Generator().manual_seed(0))
COUNTS = [200, 50, 5]

# Wrong labels, and words of the sentence.
WRONG = {
    "a column": (LABELS[:, None], r"12 whole numbers, one for each row, not int64 \[12, 1\]: flatten them"),
    "one-hot": (LOGITS, r"not float32 \[12, 3\]"),
    "floating point": (LABELS.float(), r"not float32 \[12\]"),
    "booleans": (LABELS > 0, r"not bool \[12\]"),
    "too few": (LABELS[:-1], r"not int64 \[11\]"),
    "a single one": (LABELS[:1], r"not int64 \[1\]"),
    "from 1": (LABELS + 1, "run from 1 to 3; with 3 classes they must be in 0 .. 2"),
    "below 0": (LABELS - 1, "run from -1 to 1"),
}
MEASURES = {
    "accuracy": lambda y: metrics.accuracy(LOGITS, y),
    "class_accuracy": lambda y: metrics.class_accuracy(LOGITS, y),
    "worst_class_accuracy": lambda y: metrics.worst_class_accuracy(LOGITS, y),
    "top_k_accuracy": lambda y: metrics.top_k_accuracy(LOGITS, y, 2),
    "macro_f1": lambda y: metrics.macro_f1(LOGITS, y),
    "prior_following": lambda y: metrics.prior_following(LOGITS, y, COUNTS),
    "group_accuracy": lambda y: metrics.group_accuracy(LOGITS, y, COUNTS),
    "scores": lambda y: metrics.scores(LOGITS, y, COUNTS),
    "reliability": lambda y: metrics.reliability(LOGITS.softmax(1), y),
    "calibration_error": lambda y: metrics.calibration_error(LOGITS.softmax(1), y),
    "label_accuracy": lambda y: metrics.label_accuracy(LOGITS, y, COUNTS),
    "diversity": lambda y: metrics.diversity(FEATURES, y, FEATURES, LABELS, C),
    "diversity, real": lambda y: metrics.diversity(FEATURES, LABELS, FEATURES, y, C),
    "group_memorisation": lambda y: metrics.group_memorisation(
        (FEATURES, y), (FEATURES, LABELS), (FEATURES, LABELS), COUNTS
    ),
    "class_means": lambda y: features.class_means(FEATURES, y, C),
    "class_spread": lambda y: features.class_spread(FEATURES, y, C),
    **{
        name: lambda y, source=source: source(FEATURES, y, [1, 2, 3])
        for name, source in features.MORE_CONTROLS.items()
        if name not in ("No generation", "Uniform noise")  # these look at no label
    },
}


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("measure", MEASURES)
def test_labels_that_are_not_one_class_for_each_row_are_refused(measure, kind):
    labels, sentence = WRONG[kind]
    with pytest.raises(CourseError, match=sentence):
        MEASURES[measure](labels)
    MEASURES[measure](LABELS)


def test_a_perfect_classifier_has_all_right_whatever_kind_of_whole_numbers():
    for kind in (torch.uint8, torch.int16, torch.int32, torch.int64):
        assert metrics.accuracy(LOGITS, LABELS.to(kind)) == 100


@pytest.mark.parametrize(
    "logits, sentence",
    [
        (LOGITS[0], r"Logits \[N, C\] are needed, a row for each sample, not \[3\]"),
        (LOGITS[None], r"not \[1, 12, 3\]"),
        (LOGITS[:, :1], "run from 0 to 2; with 1 classes"),
        (LOGITS.clamp(max=0).log() * 0, "not numbers"),
    ],
)
def test_logits_of_another_rank_or_that_are_not_numbers_are_refused(logits, sentence):
    with pytest.raises(CourseError, match=sentence):
        is_right(logits, LABELS)


@pytest.mark.parametrize(
    "call, sentence",
    [
        (lambda: metrics.group_accuracy(LOGITS, LABELS, [5]), "1 class counts do not fit logits of 3 classes"),
        (lambda: recognition.label_shift(LOGITS, [5]), "1 class counts do not fit logits of 3 classes"),
        (lambda: recognition.logit_adjusted_loss(LOGITS, LABELS, [5]), "1 class counts do not fit logits of 3"),
        (lambda: metrics.paired_difference(torch.ones(3, N), torch.ones(1, N)), r"not \[3, 12\] and \[1, 12\]"),
        (lambda: metrics.paired_difference(torch.ones(N), torch.ones(N)), r"\[seeds, images\] of one shape"),
        (lambda: metrics.inception_score(LOGITS.softmax(1)[None].expand(10, -1, -1)), r"needs probabilities \[N, K\]"),
        (lambda: metrics.precision_recall(FEATURES, FEATURES, 0), "k is the number of neighbours, 1 or more, not 0"),
        (lambda: statistics.relative_length(FEATURES, FEATURES[:1]), r"one shape, not \[12, 4\] and \[1, 4\]"),
        (lambda: statistics.nearest_distance(FEATURES, FEATURES[:3], same=True), "leave out same=True"),
        (lambda: features.class_gaussian(FEATURES, LABELS, [1, 1]), "run from 0 to 2; with 2 classes"),
    ],
)
def test_what_would_broadcast_is_refused(call, sentence):
    with pytest.raises(CourseError, match=sentence):
        call()


def denoisers() -> dict:
    x = torch.zeros(2, 1, 8, 8)
    return {
        "UNet": (UNet(1, C, 8, (1, 2), (), 1), x),
        "ResidualMLP": (ResidualMLP(8, C, 8, 1), x[:, 0, 0]),
        "FeatureUNet": (FeatureUNet(8, C, 8, (1, 2)), x[:, 0, 0]),
    }


@pytest.mark.parametrize("name", denoisers())
def test_a_denoiser_refuses_what_would_broadcast_and_classes_that_it_does_not_have(name):
    network, x = denoisers()[name]
    t, y = torch.zeros(2, dtype=torch.long), torch.tensor([0, C])
    assert network(x, t, y).shape == x.shape  # C is no label
    for wrong in ((x[0], t, y), (x, t[:1], y), (x, t[:, None], y), (x, t, y[:1]), (x, t, y[:, None])):
        with pytest.raises(CourseError, match="A denoiser takes x_t"):
            network(*wrong)
    for labels in (y + 1, y - 1):
        with pytest.raises(CourseError, match="a denoiser of 3 classes takes 0 .. 3, the last being no label"):
            network(x, t, labels)


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"attention": (16,)}, r"0 \(full resolution\) to 1, not pixels: there is no level 16"),
        ({"attention": (-1,)}, "there is no level -1"),
        ({"attention": (0, 2)}, "there is no level 2"),
        ({"mults": ()}, "one level and one block at least"),
        ({"blocks": 0}, "one level and one block at least"),
    ],
)
def test_options_that_a_unet_would_ignore_are_refused(options, sentence):
    with pytest.raises(CourseError, match=sentence):
        UNet(1, C, 8, **{"mults": (1, 2)} | options)


def test_attention_is_at_level_one_if_there_is_one():
    assert [UNet(1, C, 8, mults).config["attention"] for mults in ((1,), (1, 2), (1, 2, 2))] == [[], [1], [1]]


def test_a_network_without_augmentation_is_not_told_of_one():
    network, x = denoisers()["UNet"]
    with pytest.raises(CourseError, match="knows nothing of augmentation"):
        network(x, torch.zeros(2, dtype=torch.long), torch.zeros(2, dtype=torch.long), torch.zeros(2, 9))


def test_an_encoder_takes_images_of_its_channels_in_its_range():
    network = ResNet(C, 3, 8, 4)
    for images in (torch.rand(2, 1, 8, 8), torch.rand(3, 8, 8)):
        with pytest.raises(CourseError, match=r"takes images \[B, 3, H, W\]"):
            network(images)
    with pytest.raises(CourseError, match="encode takes uint8 images, 0 .. 255, not float32"):
        encode(network, torch.rand(2, 3, 8, 8))


def test_added_features_need_their_labels():
    head = torch.nn.Linear(D, C)
    data = Encoded(FEATURES, LABELS, FEATURES, LABELS, LOGITS, head, COUNTS)
    views = Views(FEATURES[None], LABELS, LABELS[None], torch.ones(1, N))
    for labels in (LABELS[:, None], LABELS[:5], LABELS + 1):
        with pytest.raises(CourseError, match="added_labels"):
            retrain_head(data, FEATURES, labels, epochs=1)
        with pytest.raises(CourseError, match="the labels of added"):
            fit_head(views, data, added=(FEATURES, labels), steps=1)
    with pytest.raises(CourseError, match="start_tau is where a linear head starts"):
        fit_head(views, data, kind="cosine", start_tau=0.0, steps=1)
