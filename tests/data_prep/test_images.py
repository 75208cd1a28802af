"""One reader of image files: folders, lists and the programs that train on files give the same pixels, or refuse alike."""

import json

import numpy as np
import pytest
from PIL import Image

from data_prep import images
from data_prep.__main__ import main
from data_prep.lists.image_files import read_image
from lt_utils.data import datasets
from lt_utils.errors import CourseError

SIDE = 8


def colours(seed: int = 0, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, channels), dtype=np.uint8)


def see_through() -> np.ndarray:
    """RGBA [8, 8, 4]: the left half is transparent and hides black, the right half is opaque."""
    pixels = colours(1, 4)
    pixels[:, :4], pixels[:, 4:, 3] = 0, 255
    return pixels


def palette() -> Image.Image:
    """A palette image whose colour 0, black, is transparent: the left half."""
    image = Image.new("P", (SIDE, SIDE), 1)
    image.putpalette([0, 0, 0, 200, 100, 50])
    image.paste(0, (0, 0, 4, SIDE))
    image.info["transparency"] = 0
    return image


def write(path, kind: str) -> np.ndarray:
    """Write an image of this kind; returns what must be read, RGB [8, 8, 3]."""
    grey, rgb, rgba = colours(0, 1)[..., 0], colours(), see_through()
    on_white = np.where(rgba[..., 3:] == 0, 255, rgba[..., :3])
    if kind == "grey":
        Image.fromarray(grey).save(path)
        return np.repeat(grey[..., None], 3, 2)
    if kind == "black and white":
        Image.fromarray(grey > 127).save(path)
        return np.repeat(np.where(grey > 127, 255, 0)[..., None], 3, 2)
    if kind == "turned":  # stored lying on its side, with the turn that makes it upright
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.fromarray(np.rot90(rgb)).save(path, exif=exif)
        return rgb
    if kind == "transparent":
        Image.fromarray(rgba).save(path)
        return on_white
    if kind == "grey and transparent":
        Image.fromarray(np.stack([grey, rgba[..., 3]], 2)).save(path)
        return np.repeat(np.where(rgba[..., 3] == 0, 255, grey)[..., None], 3, 2)
    if kind == "palette with a transparent colour":
        palette().save(path, transparency=0)
        return np.array([[[255] * 3] * 4 + [[200, 100, 50]] * 4] * SIDE)
    raise AssertionError(kind)


KINDS = (
    "grey",
    "black and white",
    "turned",
    "transparent",
    "grey and transparent",
    "palette with a transparent colour",
)


@pytest.mark.parametrize("kind", KINDS)
def test_every_reader_sees_the_same_pixels(tmp_path, kind):
    wanted = write(tmp_path / "a.png", kind)
    pixels, remark = images.decode(tmp_path / "a.png", None)
    assert (np.broadcast_to(pixels, wanted.shape) == wanted).all()
    assert (read_image(tmp_path / "a.png").permute(1, 2, 0).numpy() == wanted).all()
    assert remark == (images.LAID_ON_WHITE if "transparent" in kind else "")


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_depths_that_pillow_would_cut_off_at_white_are_refused_by_every_reader(tmp_path, dtype):
    Image.fromarray((colours()[..., 0].astype(np.float64) * 256).astype(dtype)).save(tmp_path / "deep.tiff")
    pixels, why = images.decode(tmp_path / "deep.tiff", None)
    assert pixels is None and "not 8 bits a channel" in why
    with pytest.raises(CourseError, match=r"deep\.tiff .*not 8 bits a channel"):
        read_image(tmp_path / "deep.tiff")


def test_colour_of_16_bits_is_scaled(tmp_path):
    """Pillow keeps the upper 8 of 16 bits, which is the same picture: a PNG written by hand, since Pillow writes none."""
    import struct
    import zlib

    wanted = colours()
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in (wanted.astype(np.uint16) * 257).reshape(SIDE, -1))
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", SIDE, SIDE, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    chunks = (struct.pack(">I", len(b)) + k + b + struct.pack(">I", zlib.crc32(k + b)) for k, b in parts)
    (tmp_path / "deep.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    assert (images.decode(tmp_path / "deep.png", None)[0] == wanted).all()


def test_what_was_laid_on_white_is_said_and_recorded(tmp_path, monkeypatch, capsys):
    """From a folder and from lists alike; an alpha channel that hides nothing is no transparency."""
    monkeypatch.setenv("LT_DATA", str(tmp_path / "prepared"))
    rows = {"train": ["path,label"], "test": ["path,label"]}
    for c, name in enumerate(("cat", "dog")):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for i in range(4):
            Image.fromarray(colours(10 * c + i)).convert("RGBA").save(tmp_path / "pets" / name / f"{i}.png")
            rows["train" if i else "test"].append(f"{name}/{i}.png,{c}")
    write(tmp_path / "pets" / "cat" / "1.png", "transparent")
    assert main(["folder", "--from", str(tmp_path / "pets")]) == 0
    for split, lines in rows.items():
        (tmp_path / "pets" / f"{split}.csv").write_text("\n".join(lines) + "\n")
    assert main(["lists", "--from", str(tmp_path / "pets"), "--size", str(SIDE)]) == 0
    assert capsys.readouterr().out.count(f"1 image with {images.LAID_ON_WHITE}") == 2
    for name in ("folder", "lists"):
        record = json.loads((tmp_path / "prepared" / f"{name}.json").read_text())
        assert record["changed"] == f"1 image with {images.LAID_ON_WHITE}"
        assert datasets.load(name).channels == 3
