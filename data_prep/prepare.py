"""One data set from its source to <folder>/<name>.npz: find out what the source is, read, check, write."""

import re
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from data_prep import arrays, folders, images, layout, originals, subsets
from data_prep.copies import count
from data_prep.lists import to_arrays
from lt_utils.data import npz
from lt_utils.data.datasets import BUNDLED, FETCHABLE, data_folder
from lt_utils.errors import CourseError
from lt_utils.files import lock, unlock

TEST_FRACTION = 0.2  # of each class, where a source brings no test set


@dataclass(frozen=True)
class Request:
    """What was asked for. It stands in the record, so that a later run can tell whether it asks for the same."""

    source: str | None = None  # a path, or None: fetch the original files
    size: int | None = None
    test_fraction: float | None = None
    seed: int = 0
    skip_bad: bool = False
    generated: bool = False
    imbalance: float | None = None  # cut the training set to a long tail; its list of images is written
    profile: str = "exponential"
    n_max: int | None = None
    # A path: where the list is written, or without an imbalance the list to take the images of.
    indices: str | None = None

    @property
    def cuts(self) -> bool:
        """Whether the training set becomes a part of that of the source."""
        return self.imbalance is not None or self.indices is not None


def prepare(name: str, request: Request, to: Path | None = None, again: bool = False) -> Path:
    """Make <to>/<name>.npz and its record, or find that both are there and whole; returns the path of the .npz.

    What happens is printed. Nothing appears under the final name before it is complete (`arrays.write`).

    Raises:
        CourseError: whatever a user can mend, in one sentence.
    """
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name):
        raise CourseError(f"{name!r} cannot be a data set's name: use letters, digits, '-', '_' and '.'.")
    if name == BUNDLED:
        raise CourseError(f"{BUNDLED} is inside the package already: load it, or choose another name for your own set.")
    folder = data_folder(to)
    path = folder / f"{name}.npz"
    list_path = (
        subsets.list_beside(path) if request.indices is None or request.imbalance is None else Path(request.indices)
    )
    if request.cuts:
        _check_cut(name, request, list_path)
    if path.exists() and not again:
        _verify(path, request)  # a published part that is there is whole, however it was made
        if request.imbalance is not None and not list_path.exists():
            raise CourseError(
                f"{path} is there, but {list_path}, the list of its images, is not: --again makes both anew."
            )
        return path
    if request.imbalance is not None and list_path.exists() and not again:
        raise CourseError(
            f"{list_path} is there already: leave out --imbalance to take its images, give another name, or --again."
        )
    if request.source is None and name in subsets.PUBLISHED:
        whole = prepare(subsets.PUBLISHED[name], Request(), to)
        request = replace(request, source=str(whole), indices=str(subsets.published_list(name)))
    if request.source is None and name not in originals.ORIGINALS:
        known = ", ".join(FETCHABLE)
        raise CourseError(f"{name!r} is none of the sets that can be fetched ({known}): add --from PATH for your own.")

    downloads = folder / f".{name}.downloads"
    mark = f".{name}.lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock(folder, mark)
    except OSError as error:
        raise CourseError(f"{folder} cannot be written ({error.strerror}): choose another one with --to.") from None
    try:
        found, facts = _read(name, request, downloads)
        npz.check_arrays(found, name)
        if request.cuts:
            found, facts = _cut(name, request, found, facts, list_path)
        if copies := count(found, name):
            print(f"{name}: {copies['copies']}", flush=True)
        facts |= copies
        print(f"{name}: checking and writing {len(found['x_train']) + len(found['x_test']):,} images", flush=True)
        record = arrays.write(path, found, {**facts, "request": asdict(request)})
        shutil.rmtree(downloads, ignore_errors=True)
    finally:
        unlock(folder, mark)
        (folder / mark).unlink(missing_ok=True)
    _tell(path, record)
    return path


def source_path(given: Path, to: Path | None = None) -> Path:
    """The path that --from means: that of a file or folder, or else the file of the prepared set of this name."""
    prepared = data_folder(to) / f"{given}.npz"
    return prepared if not given.exists() and prepared.exists() else given.expanduser().resolve()


def _check_cut(name: str, request: Request, list_path: Path) -> None:
    """Refuse, before anything is read, a request for a part of a set that cannot be meant."""
    if request.source is None or name in originals.ORIGINALS:
        whole = name if name in originals.ORIGINALS else "cifar10"
        raise CourseError(
            f"A part of a set has another name than the set itself: with `python -m data_prep {whole}` done, "
            f"`python -m data_prep {whole}-if100 --from {whole} --imbalance 100` makes one (or --indices FILE)."
        )
    if request.test_fraction is not None:
        raise CourseError("--imbalance and --indices cut a set that has its test set: first make that, then cut it.")
    if request.imbalance is not None and list_path.suffix != ".csv":
        raise CourseError(f"With --imbalance the list is written to {list_path}: its name must end in .csv.")


def _cut(
    name: str, request: Request, whole: dict[str, np.ndarray], facts: dict[str, object], list_path: Path
) -> tuple[dict[str, np.ndarray], dict[str, object]]:
    """Return the set with the asked part of its training images, and its facts; the list of that part is written."""
    if "test_set" in facts:
        raise CourseError(f"{request.source} has no test set: first make a set of it, then cut that (--from its name).")
    of = Path(str(request.source)).stem
    if request.imbalance is not None:
        options = request.imbalance, request.profile, request.n_max, request.seed
        kept, rule = subsets.long_tail(whole["y_train"], whole["classes"].tolist(), *options)
    else:
        listed = subsets.read(Path(str(request.indices)))
        kept, how = subsets.find(listed, whole["x_train"], whole["y_train"], of)
        rule = f"the images of the list {listed.path.name}"
        print(f"{name}: {len(kept):,} images found {how}", flush=True)
    cut = whole | {key: whole[key][kept] for key in ("x_train", "y_train")}
    npz.check_arrays(cut, name)
    described = {"rule": rule, "of": of, "of_training_images": len(whole["y_train"]), "source": facts["source"]}
    if request.imbalance is not None or Path(str(request.indices)) != list_path:  # not the one that was read
        said = subsets.write(list_path, kept, whole, described)
        print(
            f"{name}: wrote {list_path}, .npy and .json (SHA-256 of its images {said['sha256_of_image'][:12]}…)",
            flush=True,
        )
    return cut, facts | {"subset": rule, "of": of}


def _verify(path: Path, request: Request) -> None:
    record = npz.check_file(path, thorough=True)
    if record is None:
        raise CourseError(f"{path} is there, without a record of where it came from: --again replaces it.")
    made_as = record.get("request", {})
    if "date" not in record or not isinstance(made_as, dict):
        raise CourseError(
            f"{path.stem}.json beside {path} lacks its date or what was asked for: --again makes both anew."
        )
    made_as = {**asdict(Request()), **made_as}  # an option that came later had its default
    if request.source is not None and made_as != asdict(request):
        raise CourseError(
            f"{path} is there, made from another source or with other options (see {path.stem}.json): "
            "choose another name, or add --again to replace it."
        )
    print(f"{path} is already there, verified (SHA-256 {record['sha256'][:12]}…, made {record['date']}).")


def _read(name: str, request: Request, downloads: Path) -> tuple[dict[str, np.ndarray], dict[str, object]]:
    """Return the arrays, test set included, and what the record says about where they come from."""
    path = None if request.source is None else Path(request.source)
    if path is not None and not path.exists():
        raise CourseError(f"{path} does not exist: --from needs a folder or a file.")
    images.check_names([path] if path else [])
    if path is not None and not originals.holds(name, path):
        return _read_own(name, request, path)

    if request.size or request.skip_bad or request.generated or request.test_fraction is not None:
        raise CourseError(
            f"--size, --skip-bad, --test-fraction and --generated do not apply to the original files of {name}."
        )
    if path is None:
        originals.fetch(name, downloads)
    print(f"{name}: reading {path or downloads}", flush=True)
    original = originals.ORIGINALS[name]
    return originals.read(name, path or downloads), {"source": original.source, "licence": original.licence}


def _read_own(name: str, request: Request, path: Path) -> tuple[dict[str, np.ndarray], dict[str, object]]:
    """The same for a folder of images, a folder with lists of them or an .npz, whatever they show."""
    fraction = TEST_FRACTION if request.test_fraction is None else request.test_fraction
    if not 0 < fraction < 1:
        raise CourseError(f"--test-fraction is a share between 0 and 1, not {fraction:g}.")
    facts: dict[str, object] = {"source": "own data", "licence": "that of your own data"}
    if path.suffix == ".npz" and (record := npz.check_file(path, thorough=False)):
        facts |= {key: record[key] for key in facts if key in record}  # a prepared set brings its own
    if name in originals.ORIGINALS:
        original = originals.ORIGINALS[name]
        source = f"{original.source}; as given, not compared with the original files"
        facts = {"source": source, "licence": original.licence}
    own_test = f"{path} has its own test set: leave out --test-fraction."
    has_test = to_arrays.training_list(path) or (path.is_dir() and "test" in layout.splits(path)[0])
    if has_test and request.test_fraction is not None:  # before anything is decoded
        raise CourseError(own_test)
    print(f"{name}: reading {path}", flush=True)

    bad: list[str] = []
    told: dict[str, object] = {}
    if to_arrays.training_list(path):
        found, bad, told = to_arrays.read(path, request.size, request.skip_bad, request.generated)
        if name in to_arrays.SOURCES:
            facts = {"source": to_arrays.SOURCES[name], "licence": "see the source; do not pass the images on"}
    elif request.generated:
        raise CourseError(f"--generated is for a folder with train.csv and {to_arrays.GENERATED}, which {path} is not.")
    elif path.is_dir():
        found, bad, told = folders.read(path, request.size, request.skip_bad)
    elif path.suffix != ".npz":
        raise CourseError(
            f"{path} is no source for {name}: give a folder with one folder of images for each class, an .npz, "
            f"or the original files of {', '.join(originals.ORIGINALS)} under their own names."
        )
    elif request.skip_bad:
        raise CourseError(f"--skip-bad is for folders of images, which {path} is not.")
    else:
        found = arrays.read(path, request.size)
    if len(found["classes"]) < 2:
        raise CourseError(f"{path} has a single class, {found['classes'][0]}: there must be two at least.")
    if told:
        facts |= told
        print(f"{name}: {'; '.join(map(str, told.values()))}")
    if bad:
        facts["left_out"] = bad
        print(f"{name}: {len(bad)} unreadable files are left out (named in the record), the first: {bad[0]}")

    if "x_test" not in found:
        facts["test_set"] = f"{fraction:.0%} of each class, drawn with seed {request.seed}"
        print(f"{name}: no test set is given: {facts['test_set']}, becomes it")
        found = arrays.split(found, fraction, request.seed)
    elif request.test_fraction is not None:
        raise CourseError(own_test)
    return found, facts


def _tell(path: Path, record: dict) -> None:
    train, test, (height, width, channels) = record["train_counts"], record["test_counts"], record["image"]
    each = f"{min(train):,}" if min(train) == max(train) else f"{min(train):,} to {max(train):,}"
    print(
        f"{record['name']}: {sum(train):,} training and {sum(test):,} test images, {height} x {width} x {channels}, "
        f"{len(train)} classes with {each} training images each"
    )
    print(f"wrote {path} ({record['bytes'] / 1e6:.1f} MB, SHA-256 {record['sha256'][:12]}…) and {path.stem}.json")
    print(f"licence: {record['licence']}")
    where = "" if path.parent.resolve() == data_folder().resolve() else f', folder="{path.parent}"'
    print(f'load it: lt_utils.data.load("{record["name"]}"{where})')
