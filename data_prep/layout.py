"""Where the images of a folder tree are: its training and test folders, by whatever name, and the files of each class."""

import re
import unicodedata
from collections import defaultdict
from pathlib import Path

from data_prep.images import first
from lt_utils.errors import CourseError

# What a folder of images may be called: "Training", "test_set", "seg_train" beside "seg_test", "ValidationImages".
SPLITS = {"train": r"train(ing)?", "test": r"test(ing)?", "val": r"val(id(ation)?)?|dev|eval"}
FILLERS = r"(data)?sets?|data|images?|imgs?|pictures?|split|folder"
LEFT_BY_PROGRAMS = ("__MACOSX", "@eaDir", "lost+found", "Thumbs.db", "desktop.ini")  # neither class nor image
MOST_LEVELS = 10  # of folders in folders, for a suggestion


def splits(path: Path) -> tuple[dict[str, Path], dict[str, object]]:
    """The folder of the training images and, if it is given, of the test images; and what the record should say of it.

    Without a test folder validation images are the test set. CourseError for one without the other and for two alike.
    """
    groups: dict[tuple, dict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))
    for folder in folders_in(path):
        split, rest = _read_name(folder.name)
        if split:
            groups[rest][split].append(folder)
    plain = groups.get((), {})
    pairs = [group for group in groups.values() if "train" in group and len(group) > 1]
    if plain and plain not in pairs:
        has, lacks = ("train", "test") if "train" in plain else (next(iter(plain)), "train")
        name = plain[has][0].name
        raise CourseError(
            f"{path} has a folder {name} but no folder {lacks}: add it (or rename {name}, if it is a class)."
        )
    twice = [folders for pair in pairs for folders in pair.values() if len(folders) > 1]
    if twice or len(pairs) > 1:
        names = [folder.name for folders in (twice or [pair["train"] for pair in pairs]) for folder in folders]
        raise CourseError(f"{path} has more than one training or test folder ({first(names)}): keep one of each.")
    found = {"train": path}
    if pairs:
        test = "test" if "test" in pairs[0] else "val"
        found = {"train": pairs[0]["train"][0], "test": pairs[0][test][0]}
    used = [folder.name for folder in found.values() if folder != path]
    beside = [entry.name for entry in _visible(path) if entry.name not in used and (pairs or not entry.is_dir())]
    said = [f"training images {used[0]}, test images {used[1]}"] if used and used != ["train", "test"] else []
    said += [f"beside them, left out: {first(sorted(beside))}"] if beside else []
    return found, {"folders": "; ".join(said)} if said else {}


def _read_name(name: str) -> tuple[str | None, tuple[str, ...]]:
    """Which split a folder's name says, if any, and its other words: "seg_train" -> "train", ("seg",)."""
    words = re.split(r"[\W\d_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower())
    words = [re.sub(rf"(?<=.)({FILLERS})$", "", word) for word in words if not re.fullmatch(FILLERS, word)]
    said = {word: split for word in words for split, form in SPLITS.items() if re.fullmatch(form, word)}
    if len(said) != 1:
        return None, ()
    return next(iter(said.values())), tuple(word for word in words if word and word not in said)


def files_of_classes(folder: Path) -> dict[str, list[Path]]:
    """The files of each class, also those in folders within; hidden ones are passed over.

    Classes are ordered by number if all their names are numbers, else as text; files as text. CourseError for no class or a
    single one, for one without a file, and for class folders that hold only folders: with what was probably meant.
    """
    classes = {unicodedata.normalize("NFC", sub.name): sub for sub in folders_in(folder)}
    if not classes:
        raise CourseError(
            f"{folder} has no class folders: it must hold one folder of images for each class. If it is one class, give the "
            "folder above it; if its images have no labels, take it away."
        )
    if nested := [sub.name for sub in classes.values() if not _has_files(sub) and folders_in(sub)]:
        inner = sorted({sub.name for name in nested for sub in folders_in(folder / name)})
        raise CourseError(
            f"{folder} has class folders that hold only folders, no images: {first(nested)} (holding {first(inner)}). "
            f"{_meant(folder)}"
        )
    names = sorted(classes, key=int) if all(name.isdecimal() for name in classes) else sorted(classes)
    found = {name: _files_below(classes[name]) for name in names}
    for name, files in found.items():
        if not files:
            raise CourseError(f"The class folder {classes[name]} is empty: put images there or remove it.")
    if len(names) == 1:
        raise CourseError(
            f"{folder} has a single class, {names[0]}: there must be two at least. Give the folder that holds one folder of "
            "images for each class."
        )
    return found


def _meant(folder: Path) -> str:
    """What to do about class folders that hold folders: which folder was probably meant."""
    outer, below = folder, folders_in(folder)
    for _ in range(MOST_LEVELS):
        if len(below) > 1 or _has_files(below[0]) or not (deeper := folders_in(below[0])):
            break
        folder, below = below[0], deeper
    if folder != outer:
        return f"Did you mean {folder}?"
    if any(_read_name(sub.name)[0] == "train" for each in below for sub in folders_in(each)):
        return "Put the split above the classes: train/<class> and test/<class>."
    return "Call training and test folders train and test, or give the one whose folders are the classes."


def _visible(folder: Path) -> list[Path]:
    """What lies in a folder, without hidden files and what systems leave there."""
    return sorted(one for one in folder.iterdir() if not one.name.startswith(".") and one.name not in LEFT_BY_PROGRAMS)


def folders_in(folder: Path) -> list[Path]:
    """The folders in a folder, in the order of their names."""
    return [one for one in _visible(folder) if one.is_dir()]


def _has_files(folder: Path) -> bool:
    return any(one.is_file() for one in _visible(folder))


def _files_below(folder: Path) -> list[Path]:
    hidden = (*LEFT_BY_PROGRAMS, ".")
    return sorted(
        file
        for file in folder.rglob("*")
        if file.is_file() and not any(part.startswith(hidden) for part in file.relative_to(folder).parts)
    )
