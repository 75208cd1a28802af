"""Image files: the one reader of folders, of lists, and of programs that train on the files themselves.

An image comes upright (photographs are stored with the turn that makes them so), opaque (transparent pixels are laid on
white), and grey or RGB with 8 bits a channel, whatever the file's own mode. Of an animation the first picture is taken.
Colour of 16 bits is scaled. Grey of 16 or 32 bits and floating-point pixels are refused: Pillow would cut them off at white.
"""

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
from PIL import Image, ImageOps

from lt_utils.errors import CourseError

GB = 1e9
BLOCK = 2048  # images handed to the threads at a time: bounds what is still to be finished after Ctrl-C
SECONDS_BETWEEN_LINES = 3
LAID_ON_WHITE = "transparent pixels, laid on white"
GREY = ("1", "L", "LA", "La")  # modes


def read_image(file: Path) -> tuple[Image.Image, str]:
    """The image in a file, of mode L or RGB, and what was done to it that must be said, "" if nothing.

    Raises whatever Pillow raises for what is no whole image, and ValueError for a depth that it would cut off.
    """
    with Image.open(file) as image:
        if image.mode.startswith(("I", "F")):
            raise ValueError(f"{image.mode} pixels, not 8 bits a channel: scale them to 0 .. 255")
        image = ImageOps.exif_transpose(image)
        mode, remark = "L" if image.mode in GREY else "RGB", ""
        if image.has_transparency_data:
            image = image.convert("RGBA")
            if image.getextrema()[3][0] < 255:
                image, remark = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image), LAID_ON_WHITE
        return image.convert(mode), remark


def middle_square(image: Image.Image, size: int) -> Image.Image:
    """The middle square of an image, resized to `size`."""
    return ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS)


def decode(file: Path, size: int | None) -> tuple[np.ndarray | None, str]:
    """The image in `file` as uint8 [H, W, 1 or 3], its middle square resized to `size` if that is given; and the remark of
    `read_image`. If it cannot be read: None, and why."""
    try:
        image, remark = read_image(file)
        if size:
            image = middle_square(image, size)
        pixels = np.array(image)
    except Exception as error:  # Pillow's many formats raise many kinds; whatever it is, the file is of no use here
        why = "not an image" if isinstance(error, Image.UnidentifiedImageError) else str(error) or repr(error)
        return None, why
    return pixels.reshape(*pixels.shape[:2], -1), remark


def decoded(files: Sequence[Path], size: int | None) -> Iterator[tuple[np.ndarray | None, str]]:
    """What `decode` says of each file, in their order; several at once, and now and then a line on how far it is."""
    start = told = time.monotonic()
    with ThreadPoolExecutor() as threads:
        for block in range(0, len(files), BLOCK):
            some = files[block : block + BLOCK]
            for done, image in enumerate(threads.map(lambda f: decode(f, size), some), start=block + 1):
                yield image
                now = time.monotonic()
                if now - told > SECONDS_BETWEEN_LINES:
                    told, rate = now, done / (now - start)
                    left = (len(files) - done) / rate
                    print(f"  {done:,} of {len(files):,} images · {rate:,.0f}/s · {left:,.0f} s left", flush=True)


def facts_of(remarks: Counter[str]) -> dict[str, object]:
    """What the record says of the images' remarks: {"changed": "3 images with ..."}, or nothing if there were none."""
    del remarks[""]
    said = [f"{n:,} image{'' if n == 1 else 's'} with {remark}" for remark, n in remarks.items()]
    return {"changed": "; ".join(said)} if said else {}


def check_names(paths: Iterable[Path]) -> None:
    """CourseError for a path that is not UTF-8: neither the record nor a printed line could name it."""
    for path in map(str, paths):
        try:
            path.encode()
        except UnicodeEncodeError:
            raise CourseError(f"The name {path!r} is not UTF-8: rename it.") from None


def check_memory(needed: int, size: int) -> None:
    """CourseError if the images, made size x size, need more bytes than are free."""
    if needed > (free := psutil.virtual_memory().available):
        raise CourseError(
            f"The images at {size} x {size} need {needed / GB:,.1f} GB of memory, and {free / GB:,.1f} GB are free: "
            "choose a smaller --size."
        )


def check_bad(bad: Sequence[str], files: int, keep_going: bool) -> None:
    """CourseError if some of so many files could not be read, unless it shall go on without them."""
    if bad and not keep_going:
        raise CourseError(
            f"{len(bad)} of {files:,} files are not readable 8-bit images: {first(bad)}. Mend or remove them, "
            "or add --skip-bad to go on without them."
        )


def first(things: Sequence[str], n: int = 3) -> str:
    """The first few of `things`, to be named in a sentence."""
    return ", ".join(things[:n]) + (" …" if len(things) > n else "")
