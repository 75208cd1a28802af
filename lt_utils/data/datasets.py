"""Data sets as tensors: loaded whole, cut to a long tail, split, and moved to a device.

"fashion-mnist-small" lies inside the package; `python -m data_prep NAME` makes every other set, a user's own included.
`npz` describes what such a file holds.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from lt_utils.data import longtail, npz
from lt_utils.data.augmentation import half_size
from lt_utils.errors import CourseError, choose
from lt_utils.files import REPOSITORY, folder_in
from lt_utils.hashing import data_key

BUNDLED_FOLDER = Path(__file__).parent / "bundled"
BUNDLED = "fashion-mnist-small"
TITLES = {"fashion-mnist": "Fashion-MNIST", "cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}
# What data_prep makes by its name alone.
FETCHABLE = ("fashion-mnist", "cifar10", "cifar100", "cifar10-ldmlr", "cifar100-ldmlr")


@dataclass(frozen=True, eq=False, repr=False)
class ImageData:
    """A data set of square images: a training set, a test set, and the names of the classes.

    Images are uint8 [N, C, H, W] in 0 .. 255, labels int64 [N] in 0 .. classes - 1; all four tensors are on one device.
    The methods return a new ImageData and leave this one as it is.
    """

    name: str
    train_images: torch.Tensor
    train_labels: torch.Tensor
    test_images: torch.Tensor
    test_labels: torch.Tensor
    class_names: tuple[str, ...]

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def title(self) -> str:
        """Its name in figures: "Fashion-MNIST"; cut "Fashion-MNIST-LT (IF 100)"; with its own tail "birds as it is (IF 7.3)"."""
        tail = re.fullmatch(r"(.+)-(?:if([\d.e+]+)|(asis))", self.name)
        name = tail[1] if tail else self.name
        known = TITLES.get(name.removesuffix("-small").removesuffix("-ldmlr"), name)
        if tail and tail[3]:
            return f"{known} as it is (IF {self.imbalance:.3g})"
        return f"{known}-LT (IF {tail[2]})" if tail else known

    @property
    def key(self) -> str:
        """Its name, and eight characters that change with the training images: for what a checkpoint was trained on."""
        return f"{self.name} {data_key(self.train_images, self.train_labels)}"

    @property
    def channels(self) -> int:
        """1 for grey images, 3 for RGB."""
        return self.train_images.shape[1]

    @property
    def size(self) -> int:
        """Height and width of the images, in pixels."""
        return self.train_images.shape[2]

    @property
    def counts(self) -> list[int]:
        """Training images of each class."""
        return torch.bincount(self.train_labels, minlength=self.num_classes).tolist()

    @property
    def imbalance(self) -> float:
        """Its imbalance factor: training images of the largest class / of the smallest; inf if a class has none."""
        return max(self.counts) / min(self.counts) if min(self.counts) else math.inf

    @property
    def warning(self) -> str:
        """One line for a test set of unequal classes, which does not measure what the course means by accuracy; "" for others."""
        each = torch.bincount(self.test_labels, minlength=self.num_classes)
        if each.min() == each.max():
            return ""
        return (
            f"The test set is unbalanced, {each.min():,} to {each.max():,} images a class: accuracy is over images, so that "
            "large classes count more."
        )

    def __repr__(self) -> str:
        said = (
            f"{self.name}: {len(self.train_labels):,} training and {len(self.test_labels):,} test images, "
            f"{self.size} x {self.size} x {self.channels}, {self.num_classes} classes"
        )
        return f"{said}\n{self.warning}" if self.warning else said

    def check_divides(self, by: int, what: str = "A U-Net") -> None:
        """CourseError, with the command that resizes, unless the images' height and width are multiples of `by`."""
        if self.size % by:
            side = by * max(1, round(self.size / by))
            raise CourseError(
                f"{what} needs images whose sides are multiples of {by}, and those of {self.name} are {self.size} x {self.size}: "
                f"`python -m data_prep {self.name} --from PATH --size {side} --again` makes them {side} x {side}."
            )

    def to(self, device: torch.device | str) -> "ImageData":
        """Return this data set with its tensors on `device`."""
        tensors = ("train_images", "train_labels", "test_images", "test_labels")
        return replace(self, **{name: getattr(self, name).to(device) for name in tensors})

    def long_tailed(
        self,
        imbalance: float = 100,
        profile: str = "exponential",
        seed: int = 0,
        counts: Sequence[int] | None = None,
        n_max: int | None = None,
    ) -> "ImageData":
        """Return this data set with its training set cut to a long tail; the test set stays as it is.

        Args:
            imbalance, profile: the rule of `longtail.class_counts`; imbalance 0: the set as it is, all images, classes by
                frequency; or instead
            counts: images to keep of each class.
            seed: which images are kept, as `longtail.subset` chooses them.
            n_max: images the largest class keeps; default: the size of the largest class there is. In a set with unequal
                classes a smaller n_max may be needed.

        Raises CourseError for a factor below 1, a class left empty, or a class with too few images.

        >>> load("fashion-mnist-small").long_tailed(imbalance=100).counts
        [1000, 599, 359, 215, 129, 77, 46, 27, 16, 10]
        """
        suffix = "counts"
        if counts is None and imbalance == 0:
            return replace(self.by_frequency(), name=f"{self.name}-asis")
        if counts is None:
            n_max = max(self.counts) if n_max is None else n_max
            counts = longtail.class_counts(n_max, self.num_classes, imbalance, profile, self.class_names)
            suffix = f"{'if' if profile == 'exponential' else profile}{imbalance:g}"
        elif len(counts) != self.num_classes or min(counts) < 1:
            raise CourseError(
                f"counts needs {self.num_classes} numbers, one for each class and none below 1: {counts}."
            )
        kept = longtail.subset(self.train_labels, counts, seed, self.class_names).to(self.train_labels.device)
        name = f"{self.name}-{suffix}"
        return replace(self, name=name, train_images=self.train_images[kept], train_labels=self.train_labels[kept])

    def by_frequency(self) -> "ImageData":
        """Return this data set with its classes numbered from the most frequent in training to the rarest, names and test labels
        with them; classes of equally many images keep their order, and so does every image."""
        counts = self.counts
        order = sorted(range(self.num_classes), key=lambda c: -counts[c])
        if order == list(range(self.num_classes)):
            return self
        place = torch.tensor(order).argsort().to(self.train_labels.device)  # old number -> new number
        return replace(
            self,
            train_labels=place[self.train_labels],
            test_labels=place[self.test_labels],
            class_names=tuple(self.class_names[c] for c in order),
        )

    def halved(self) -> "ImageData":
        """Return this data set with all images at half the height and width: the mean of each 2 x 2 pixels."""
        names = ("train_images", "test_images")
        return replace(self, **{name: half_size(getattr(self, name)) for name in names})

    def filled_up(
        self, to: int, more: Callable[[torch.Tensor], torch.Tensor] | None = None, seed: int = 0
    ) -> "ImageData":
        """Return this data set with every class that has fewer than `to` training images filled up to that number.

        more: labels int64 [M] -> images uint8 [M, C, H, W], in order of the labels; default: the class's own images, drawn
        at random with `seed`. With nothing to fill it returns this data set.
        """
        missing = torch.cat([torch.full((max(0, to - n),), c) for c, n in enumerate(self.counts)])
        if not len(missing):
            return self
        if more is None:
            chance, labels = torch.Generator().manual_seed(seed), self.train_labels.cpu()
            own = [(labels == c).nonzero()[:, 0] for c in range(self.num_classes)]
            picked = [own[c][torch.randint(len(own[c]), (1,), generator=chance)].item() for c in missing.tolist()]
            images = self.train_images[picked]
        else:
            images = more(missing).to(self.train_images)
        labels = torch.cat([self.train_labels, missing.to(self.train_labels)])
        return replace(
            self,
            name=f"{self.name}-filled{to}",
            train_images=torch.cat([self.train_images, images]),
            train_labels=labels,
        )

    def mixed_into(self, head: int, partners: torch.Tensor, share: float, weight: float, seed: int = 0) -> "ImageData":
        """Return this data set with a share of the training images of class `head` overwritten by mixtures, labels unchanged.

        round(share * n_head) random images become weight * partner + (1 - weight) * image, rounded to uint8. So no class
        gains or loses an image or a label; only what the images of `head` show changes.

        Args:
            partners: images uint8 [M, channels, H, W]; each is used as often as any other, give or take one.
            share: of the images of `head`, 0 .. 1. weight: of the partner, 0 .. 1: at 1 a copy of it, with the label `head`.

        Raises CourseError for a share or weight outside 0 .. 1, partners that do not fit, and a class without images.
        """
        for what, value in (("share of images", share), ("weight of the partner", weight)):
            if not 0 <= value <= 1:
                raise CourseError(f"The {what} must lie in 0 .. 1, not {value:g}.")
        if not 0 <= head < self.num_classes or not self.counts[head]:
            raise CourseError(f"There is no class {head} with training images to mix something into.")
        if not len(partners) or partners.shape[1:] != self.train_images.shape[1:] or partners.dtype != torch.uint8:
            shape, given = list(self.train_images.shape[1:]), f"{list(partners.shape)} {partners.dtype}"
            raise CourseError(f"Partners are uint8 images {shape}, at least one of them: {given} are none.")
        chance = torch.Generator().manual_seed(seed)
        own = (self.train_labels.cpu() == head).nonzero()[:, 0]
        chosen = own[torch.randperm(len(own), generator=chance)[: round(share * len(own))]]
        turn = torch.randperm(len(partners), generator=chance)[torch.arange(len(chosen)) % len(partners)]
        first, second = (
            partners[turn.to(partners.device)].to(self.train_images).float(),
            self.train_images[chosen].float(),
        )
        images = self.train_images.clone()
        images[chosen] = (weight * first + (1 - weight) * second).round().byte()
        return replace(self, name=f"{self.name}-mixed", train_images=images)

    def hold_out(self, per_class: int | None = None, fraction: float | None = None, seed: int = 0) -> "ImageData":
        """Return this data set with some TRAINING images in the place of the test images: a validation split.

        Choices (epochs, rates, strengths) are made on such a split, never on the test set. `per_class` images or a
        `fraction` of each class are held out, as in `longtail.hold_out`; those that stay keep their order.
        """
        parts = longtail.hold_out(self.train_labels, self.class_names, per_class, fraction, seed)
        return self.split(*(part.to(self.train_labels.device) for part in parts), f"{self.name}-val")

    def split(self, stays: torch.Tensor, moved: torch.Tensor, name: str) -> "ImageData":
        """Return this data set, called `name`, with the training images at `moved` in the place of the test images.

        stays, moved: indices or masks [N] of training images; the test images are dropped.
        """
        return replace(
            self,
            name=name,
            train_images=self.train_images[stays],
            train_labels=self.train_labels[stays],
            test_images=self.train_images[moved],
            test_labels=self.train_labels[moved],
        )


def data_folder(folder: str | Path | None = None) -> Path:
    """Return the folder of prepared data sets, absolute: `folder`, else the environment's LT_DATA, else <repository>/data."""
    return Path(folder).expanduser().absolute() if folder else folder_in("LT_DATA", REPOSITORY / "data")


def file_of(name: str, folder: str | Path | None = None) -> Path:
    """Where the data set of this name lies, or would lie: with the package if it is the bundled one, else in `data_folder`."""
    return (BUNDLED_FOLDER if name == BUNDLED else data_folder(folder)) / f"{name}.npz"


def names(folder: str | Path | None = None) -> list[str]:
    """Return the names that `load` knows at the moment: the bundled set, then the prepared ones in order of name."""
    prepared = sorted(path.stem for path in data_folder(folder).glob("*.npz") if not path.name.startswith("."))
    return [BUNDLED, *(name for name in prepared if name != BUNDLED)]


def load(name: str = BUNDLED, folder: str | Path | None = None) -> ImageData:
    """Load a data set whole, on the CPU.

    A file that is cut short or altered is refused: the archive's own CRC-32 covers every array and the record gives the
    file's length; both cost next to nothing. The SHA-256 in the record is compared for the bundled set, and for others
    whenever `python -m data_prep NAME` runs.

    Classes are numbered by frequency (`ImageData.by_frequency`): class 0 is the head. Equal ones keep the file's order.

    name: "fashion-mnist-small" (bundled), or the name of a set made by data_prep. folder: as in `data_folder`.
    Raises CourseError for an unknown name (lists the known ones), and for a file that is damaged or not as it should be.
    """
    folder, known = data_folder(folder), names(folder)
    if name not in known:
        if name in FETCHABLE:
            raise CourseError(f"{name} is not prepared in {folder} yet: `python -m data_prep {name}` makes it.")
        try:
            choose("data set", name, known + [f for f in FETCHABLE if f not in known])
        except CourseError as error:
            raise CourseError(f"{error} `python -m data_prep NAME --from FOLDER` makes a set of your own.") from None
    path = file_of(name, folder)
    if name == BUNDLED:
        npz.check_file(path, thorough=True, remedy="install the package again.")
    else:
        npz.check_file(path, thorough=False)
    arrays = npz.check_arrays(npz.read_npz(path), path.name)
    tensors = [torch.from_numpy(arrays[x]).permute(0, 3, 1, 2).contiguous() for x in ("x_train", "x_test")]
    labels = [torch.from_numpy(arrays[y].astype(np.int64)) for y in ("y_train", "y_test")]
    return ImageData(
        name, tensors[0], labels[0], tensors[1], labels[1], tuple(arrays["classes"].tolist())
    ).by_frequency()
