"""A long-tailed data set and its test set in one small file: lossless WebP, strips of images, labels and names beside them.

CIFAR's images do not get smaller by general compression; a strip of 50 of them below each other takes 1.7 kB an image.
"""

import hashlib
import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from lt_utils.data.datasets import ImageData
from lt_utils.data.npz import read_npz
from lt_utils.errors import CourseError
from lt_utils.files import write_whole

STRIP = 50  # images below each other
MOST = 45e6  # bytes a file


def _strips(images: torch.Tensor) -> list[bytes]:
    """Images uint8 [N, C, H, W] as WebP files of up to 50 each; grey ones are stored as RGB."""
    files = []
    for part in images.cpu().expand(-1, 3, -1, -1).permute(0, 2, 3, 1).split(STRIP):
        file = io.BytesIO()
        strip = Image.fromarray(part.reshape(-1, part.shape[2], 3).numpy())
        strip.save(file, "WEBP", lossless=True, method=4, quality=75, exact=True)
        files.append(file.getvalue())
    return files


def _images(files: np.ndarray, lengths: np.ndarray, shape: tuple[int, int, int]) -> torch.Tensor:
    """The images uint8 [N, *shape] of strips that lie one after the other in `files`."""
    channels, height, width = shape
    ends = np.cumsum(lengths)
    strips = [Image.open(io.BytesIO(files[a:b].tobytes())) for a, b in zip(ends - lengths, ends, strict=True)]
    pixels = np.concatenate([np.asarray(strip).reshape(-1, height, width, 3) for strip in strips])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)[:, :channels].contiguous()


def digest(data: ImageData) -> str:
    """SHA-256 of all four tensors."""
    found = hashlib.sha256()
    for tensor in (data.train_images, data.train_labels, data.test_images, data.test_labels):
        found.update(tensor.cpu().contiguous().numpy())
    return found.hexdigest()


def pack(data: ImageData, path: Path) -> int:
    """Write `data` to `path`, an .npz, read it again and return its bytes.

    Raises CourseError if the file is larger than 45 MB: it could not be carried along.
    """
    arrays = {"name": np.array(data.name), "classes": np.array(data.class_names), "digest": np.array(digest(data))}
    arrays["shape"] = np.array(data.train_images.shape[1:])
    for split, images, labels in (
        ("train", data.train_images, data.train_labels),
        ("test", data.test_images, data.test_labels),
    ):
        files = _strips(images)
        arrays[f"{split}_files"] = np.frombuffer(b"".join(files), np.uint8)
        arrays[f"{split}_lengths"] = np.array([len(file) for file in files])
        arrays[f"{split}_labels"] = labels.cpu().numpy().astype(np.int16)
    write_whole(path, lambda file: np.savez(file, **arrays))
    unpack(path)
    if (size := path.stat().st_size) > MOST:
        path.unlink()
        raise CourseError(
            f"{data.name} takes {size / 1e6:.0f} MB, more than {MOST / 1e6:.0f}: pack a smaller part of it."
        )
    return size


def unpack(path: Path) -> ImageData:
    """The data set that `pack` wrote; CourseError if the file is damaged or its images are not what they were."""
    found = read_npz(path)
    try:
        parts = []
        for split in ("train", "test"):
            parts.append(_images(found[f"{split}_files"], found[f"{split}_lengths"], tuple(found["shape"].tolist())))
            parts.append(torch.from_numpy(found[f"{split}_labels"].astype(np.int64)))
        data = ImageData(str(found["name"]), *parts, tuple(found["classes"].tolist()))
        whole = digest(data) == str(found["digest"])
    except (KeyError, ValueError, OSError) as error:
        raise CourseError(f"{path} is no packed data set ({error!r}): pack it again.") from None
    if not whole:
        raise CourseError(f"{path} holds other images than were packed: pack it again.")
    return data
