"""Views: several random versions of every training image, encoded by a frozen encoder.

An encoder that was trained long enough has memorised its training images; their features are then unlike those of new
images. Views that were not shown in training come closer, and this module measures how much closer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from lt_utils.data.augmentation import random_crop_flip, strong_view, unit
from lt_utils.errors import CourseError, choose
from lt_utils.features.encoding import Encoded
from lt_utils.features.statistics import class_means, class_spread, relative_length
from lt_utils.models.resnet import ResNet
from lt_utils.training import checkpoints
from lt_utils.training.devices import autocast
from lt_utils.training.ranks import each_part, first

KINDS = ("clean", "weak", "strong", "mixed")


@dataclass(frozen=True)
class Views:
    """K views of N training images: features [K, N, D], labels [N], and for mixed images the partner's label and share.

    partner_labels [K, N] and share [K, N] in 0..1 say that view k of image i is share * image i + (1 - share) * another
    one. For views that are not mixed, share is 1 and the partner is the image itself.
    """

    features: Tensor
    labels: Tensor
    partner_labels: Tensor
    share: Tensor

    @property
    def flat(self) -> tuple[Tensor, Tensor]:
        """All views as one set: features [K N, D] and labels [K N]. CourseError for mixed views: they have two labels."""
        if (self.share < 1).any():
            raise CourseError("Mixed views belong to two classes each: use clean, weak or strong views here.")
        return self.features.flatten(0, 1), self.labels.repeat(len(self.features))


def join(*sets: Views) -> Views:
    """Several sets of views of the same images as one, [K1 + K2 + ..., N, D]. CourseError if the images differ."""
    if any(not torch.equal(one.labels, sets[0].labels) for one in sets):
        raise CourseError("Only views of the same images, in the same order, can be joined.")
    parts = ([getattr(one, name) for one in sets] for name in ("features", "partner_labels", "share"))
    features, partners, share = (torch.cat(part) for part in parts)
    return Views(features, sets[0].labels, partners, share)


@torch.no_grad()
def encode_fast(model: ResNet, images: Tensor, batch_size: int = 128) -> Tensor:
    """Features [N, D], float32, of images [N, channels, H, W] (uint8, or floats in 0..1), in evaluation mode.

    In mixed precision where that is fast: the features differ from `resnet.encode` by under one percent, which is far
    less than two views of an image differ.
    """
    model.eval()
    where = model.conv1.weight.device

    def features(part: Tensor) -> Tensor:
        x = unit(part.to(where)) if part.dtype == torch.uint8 else part.to(where)
        with autocast(where):
            return model.features(x).float()

    return torch.cat(each_part(features, images.split(batch_size)))


def encode_views(encoded: Encoded, kind: str, count: int, seed: int = 0, path: str | Path | None = None) -> Views:
    """`count` random views of every training image, through the encoder that made `encoded`.

    Args:
        kind: "clean" (the image itself; one view is enough), "weak" (crop and flip, as in training), "strong"
            (`augmentation.strong_view`) or "mixed" (two weak views as mixup shows them, share ~ Beta(1/2, 1/2) for each image).
        count: views per image, at least 1.
        seed: decides all views; view k depends on (seed, kind, k) alone.
        path: a file to keep them in; if it is there already, and of this encoder and these views, it is read.

    Raises CourseError for an unknown kind, a count below 1, or features whose encoder is not at hand.
    """
    choose("kind of view", kind, KINDS)
    if count < 1:
        raise CourseError(f"At least one view of every image is needed, not {count}.")
    check_encoder(encoded)
    facts = {"views": kind, "count": count, "seed": seed, "key": encoded.key}
    if path is not None and Path(path).exists():
        tensors, stored = checkpoints.load(path)
        if {name: stored.get(name) for name in facts} == facts:
            return Views(**{name: tensor.to(encoded.train.device) for name, tensor in tensors.items()})
    images, labels = encoded.images.train_images, encoded.train_labels
    rounds = []
    with torch.random.fork_rng():
        for k in range(count):
            torch.manual_seed(seed * 1_000_003 + 101 * k + KINDS.index(kind))
            rounds.append(_one_view(encoded.encoder, images, labels, kind))
    features, partners, share = (torch.stack(part) for part in zip(*rounds, strict=True))  # [K, N, D], [K, N], [K, N]
    views = Views(features, labels, partners, share)
    if path is not None and first():
        checkpoints.save(path, vars(views), facts)
    return views


def check_encoder(encoded: Encoded) -> None:
    """Raise CourseError unless the network and the images of these features are at hand."""
    if encoded.encoder is None or encoded.images is None:
        raise CourseError("These features came without their encoder: make them with load_or_train or encode_data.")


def _one_view(model: ResNet, images: Tensor, labels: Tensor, kind: str) -> tuple[Tensor, Tensor, Tensor]:
    """Features [N, D] of one view of every image, the label of its partner [N] and its own share [N]."""
    share, pad = torch.ones(len(images), device=labels.device), images.shape[-1] // 8  # share [N]
    if kind == "clean":
        return encode_fast(model, images), labels, share
    change = strong_view if kind == "strong" else random_crop_flip
    views = torch.cat([change(part, pad) for part in images.split(512)])
    if kind != "mixed":
        return encode_fast(model, views), labels, share
    share = torch.distributions.Beta(0.5, 0.5).sample((len(images),)).to(labels.device)
    partner = torch.randperm(len(images)).to(labels.device)
    weight = share.view(-1, 1, 1, 1).to(images.device)  # [N, 1, 1, 1]
    parts = []
    for at in torch.arange(len(images), device=images.device).split(512):
        mixed = torch.lerp(unit(views[partner.to(images.device)[at]]), unit(views[at]), weight[at])
        parts.append(encode_fast(model, mixed))
    return torch.cat(parts), labels[partner], share


def encode_with(model: ResNet, encoded: Encoded) -> Encoded:
    """The same images through another encoder with the same head, such as one with batch-norm statistics estimated anew."""
    if encoded.images is None:
        raise CourseError("These features came without their images: make them with load_or_train or encode_data.")
    train, test = (encode_fast(model, part) for part in (encoded.images.train_images, encoded.images.test_images))
    with torch.no_grad():
        return replace(encoded, train=train, test=test, test_logits=encoded.head(test), encoder=model)


def mirrored_test(encoded: Encoded) -> Tensor:
    """Features [N, D] of the test images, each mirrored left to right: the second half of flip test-time augmentation."""
    check_encoder(encoded)
    return encode_fast(encoded.encoder, encoded.images.test_images.flip(3))


def distance_to_test(features: Tensor, labels: Tensor, encoded: Encoded) -> dict[str, Tensor]:
    """What lies between features [N, D] with labels [N] (of training, or drawn) and the test features: three measures, [C].

    `fair_sample` measures what the noise of small classes does to them where there is no difference at all.

    "direction": cosine of the two class means, both centred by the average of the class means of `features`.
    "length": how far the test mean reaches in the direction of the mean of `features`; 1 when equal, below 1 when these
        are too long.
    "spread": root-mean-square distance to the class mean, test / features; above 1 when these are too tight.

    Raises CourseError if a class has none of `features`: the average of all class means would not be a number.
    """
    classes = encoded.num_classes
    if absent := (torch.bincount(labels, minlength=classes) == 0).nonzero().flatten().tolist():
        raise CourseError(
            f"Class {absent[0]} has no feature to compare with the test features: give at least one of each."
        )
    train = class_means(features, labels, classes)
    test = class_means(encoded.test, encoded.test_labels, classes)
    centre = train.mean(0)
    spread = class_spread(encoded.test, encoded.test_labels, classes) / class_spread(features, labels, classes)
    return {
        "direction": torch.nn.functional.cosine_similarity(train - centre, test - centre),
        "length": relative_length(test, train),
        "spread": spread,
    }


def fair_split(encoded: Encoded, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Indices of test images: a random sample with as many of each class as training has, at most half, and all others.

    The sample is what training features would be without any fault: features of images that were not shown in training.
    Raises CourseError for a class with fewer than two test images.
    """
    generator, labels = torch.Generator().manual_seed(seed), encoded.test_labels.cpu()
    sample, others = [], []
    for c, n in enumerate(encoded.counts):
        members = (labels == c).nonzero()[:, 0]
        if len(members) < 2:
            raise CourseError(
                f"Class {c} has fewer than two test images, too few for a sample and others: leave it out."
            )
        order = members[torch.randperm(len(members), generator=generator)]
        cut = min(n, len(members) // 2)
        sample.append(order[:cut])
        others.append(order[cut:])
    return torch.cat(sample).to(encoded.test.device), torch.cat(others).to(encoded.test.device)


def fair_sample(
    encoded: Encoded, groups: dict[str, Sequence[int]], draws: int = 20, seed: int = 0
) -> dict[str, dict[str, tuple[float, float]]]:
    """[measure][group]: mean and standard deviation, over `draws`, of `distance_to_test` between the parts of `fair_split`.

    A handful of features has a noisy mean and lies close around it, so a small class never measures 1, however fair.
    """
    found: dict[str, list[Tensor]] = {}
    for k in range(draws):
        sample, others = fair_split(encoded, seed * 1_000_003 + k)
        rest = replace(encoded, test=encoded.test[others], test_labels=encoded.test_labels[others])
        for measure, values in distance_to_test(encoded.test[sample], encoded.test_labels[sample], rest).items():
            by_group = torch.stack([values[list(members)].mean() for members in groups.values()])
            found.setdefault(measure, []).append(by_group)
    columns = {measure: zip(groups, torch.stack(rows).unbind(1), strict=True) for measure, rows in found.items()}
    return {
        measure: {group: (float(values.mean()), float(values.std())) for group, values in by_group}
        for measure, by_group in columns.items()
    }


def gap_rows(
    encoded: Encoded, kinds: Mapping[str, Views], groups: dict[str, Sequence[int]], seed: int = 0
) -> list[dict]:
    """Rows for a record: `distance_to_test` of each kind of views, averaged over groups, and last that of a fair sample.

    Columns: "views", then "direction_many", "length_few" and so on; for "fair sample" also "..._sd" over its draws.
    """
    rows = []
    for kind, views in kinds.items():
        measured = distance_to_test(*views.flat, encoded)
        means = {
            f"{m}_{g}": float(v[list(members)].mean()) for m, v in measured.items() for g, members in groups.items()
        }
        rows.append({"views": kind, **{name: round(mean, 3) for name, mean in means.items()}})
    fair = fair_sample(encoded, groups, seed=seed)
    pairs = {f"{m}_{g}": pair for m, by_group in fair.items() for g, pair in by_group.items()}
    means = {name: round(mean, 3) for name, (mean, _) in pairs.items()}
    return [*rows, {"views": "fair sample", **means, **{f"{name}_sd": round(sd, 4) for name, (_, sd) in pairs.items()}}]
