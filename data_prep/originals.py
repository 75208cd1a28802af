"""The published data sets: where their original files come from, how these are verified and read."""

import contextlib
import gzip
import hashlib
import io
import sys
import tarfile
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lt_utils.errors import CourseError


@dataclass(frozen=True)
class Original:
    """A published data set: the torchvision class that knows its files, what to cite, and its licence."""

    torchvision_name: str
    source: str
    licence: str

    def files(self) -> list[tuple[str, str]]:
        """Return (address, MD5) of each original file, as torchvision lists them."""
        import torchvision  # imported only where it is used: it takes seconds

        known = getattr(torchvision.datasets, self.torchvision_name)
        if hasattr(known, "resources"):
            return [(known.mirrors[0] + file, md5) for file, md5 in known.resources]
        return [(known.url, known.tgz_md5)]


CIFAR_LICENCE = "No licence is stated by its authors, who ask to cite Krizhevsky 2009; do not pass the images on."
ORIGINALS = {
    "fashion-mnist": Original(
        "FashionMNIST",
        "Fashion-MNIST (Xiao, Rasul and Vollgraf 2017, arXiv:1708.07747), github.com/zalandoresearch/fashion-mnist",
        "MIT, © 2017 Zalando SE",
    ),
    "cifar10": Original("CIFAR10", "CIFAR-10 (Krizhevsky 2009), www.cs.toronto.edu/~kriz/cifar.html", CIFAR_LICENCE),
    "cifar100": Original("CIFAR100", "CIFAR-100 (Krizhevsky 2009), www.cs.toronto.edu/~kriz/cifar.html", CIFAR_LICENCE),
}

# SHA-256 of the *contents* of the four Fashion-MNIST files. The compressed files differ between sources: Debian's have
# lost the file name and the date in their gzip header, and get back torchvision's MD5 when both are put in again.
FASHION_MNIST = {
    "train-images-idx3-ubyte.gz": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte.gz": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte.gz": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte.gz": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
FASHION_MNIST_CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)


def fetch(name: str, folder: Path) -> None:
    """Download the original files of data set `name` into `folder` and verify them, with torchvision's own tools.

    Files that are there and whole are not fetched again, so an interrupted fetch goes on with the file it was at.
    """
    from torchvision.datasets.utils import download_url

    for address, md5 in ORIGINALS[name].files():
        print(f"{name}: fetching {address}", flush=True)
        # torchvision draws a progress bar on stderr: good in a terminal, thousands of lines in a log
        quiet = contextlib.nullcontext() if sys.stderr.isatty() else contextlib.redirect_stderr(io.StringIO())
        try:
            with quiet:
                download_url(address, folder, md5=md5)
        except (OSError, RuntimeError) as error:  # no network, no such address; no space; wrong MD5
            raise CourseError(
                f"{address} could not be fetched ({error}): run the command again later, "
                "or put the file into a folder by other means and add --from FOLDER."
            ) from None


def holds(name: str, path: Path) -> bool:
    """Say whether `path` is (or is a folder with) at least one original file of data set `name`."""
    if name not in ORIGINALS:
        return False
    files = [Path(address).name for address, _ in ORIGINALS[name].files()]
    return path.name in files or any((path / file).is_file() for file in files)


def read(name: str, path: Path) -> dict[str, np.ndarray]:
    """Verify and read the original files of data set `name`: `path` is their folder, or the archive itself.

    Returns the arrays of a prepared data set (see `lt_utils.data.npz`), in the original order.

    Raises:
        CourseError: a file is missing, damaged or half downloaded.
    """
    if name == "fashion-mnist":
        return _read_fashion_mnist(path if path.is_dir() else path.parent)
    return _read_cifar(name, path)


def _read_fashion_mnist(folder: Path) -> dict[str, np.ndarray]:
    missing = [file for file in FASHION_MNIST if not (folder / file).is_file()]
    if missing:
        raise CourseError(f"{folder} lacks {', '.join(missing)}: Fashion-MNIST consists of four files.")
    arrays = {}
    for split, file in (("train", "train"), ("test", "t10k")):
        arrays[f"x_{split}"] = _read_idx(folder / f"{file}-images-idx3-ubyte.gz")[..., None]
        arrays[f"y_{split}"] = _read_idx(folder / f"{file}-labels-idx1-ubyte.gz").astype(np.int64)
    return {**arrays, "classes": np.array(FASHION_MNIST_CLASSES)}


def _read_idx(path: Path) -> np.ndarray:
    """Read an idx file: two zero bytes, the type, the number of axes, their lengths (big-endian int32), the bytes."""
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise CourseError(f"{path} is damaged or half downloaded ({error}): fetch it again.") from None
    if hashlib.sha256(content).hexdigest() != FASHION_MNIST[path.name]:
        raise CourseError(f"{path} is not the original file (its contents have another SHA-256): fetch it again.")
    axes = content[3]
    shape = np.frombuffer(content, ">i4", count=axes, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape)


def _read_cifar(name: str, path: Path) -> dict[str, np.ndarray]:
    import torchvision
    from torchvision.datasets.utils import check_integrity, extract_archive

    [(address, md5)] = ORIGINALS[name].files()
    archive = path / Path(address).name if path.is_dir() else path
    if not check_integrity(archive, md5):
        raise CourseError(
            f"{archive} is missing, half downloaded or another file (its MD5 is not {md5}): "
            f"fetch it again from {address}."
        )
    # The batches inside are pickles. They are opened only now that the archive is known to be the published one, and
    # by torchvision's reader, which compares the MD5 of each of them once more.
    try:
        with tempfile.TemporaryDirectory() as scratch:
            extract_archive(str(archive), scratch)
            known = getattr(torchvision.datasets, ORIGINALS[name].torchvision_name)
            train, test = known(scratch, train=True), known(scratch, train=False)
    except (OSError, RuntimeError, tarfile.TarError) as error:
        raise CourseError(f"{archive} cannot be unpacked ({error}).") from None
    return {
        "x_train": train.data,
        "y_train": np.array(train.targets),
        "x_test": test.data,
        "y_test": np.array(test.targets),
        "classes": np.array(train.classes),
    }
