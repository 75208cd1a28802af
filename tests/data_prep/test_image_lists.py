"""Lists in .csv (mini-ImageNet-LT) and .json (iNaturalist 2018): read, refused, and used by data_prep and imagenet_lt."""

import copy
import json
import re

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from data_prep import images
from data_prep.__main__ import main
from data_prep.lists.formats import read, read_csv_list, read_inaturalist, with_generated
from experiments.imagenet_lt import experiment
from lt_utils.data import datasets
from lt_utils.errors import CourseError
from lt_utils.files import REPOSITORY

# The numbers of the list are not ImageNet's, which classname.txt has: class 0 is its 12, class 1 its 0.
IDS, WORDS, COUNTS = ("n01532829", "n01440764", "n01443537"), ("house_finch", "tench", "goldfish"), (5, 3, 2)
CLASSNAME = {"0": ["n01440764", "tench"], "1": ["n01443537", "goldfish"], "12": ["n01532829", "house_finch"]}


def picture(c, number, side=(20, 16)):
    """An image whose colour tells its class."""
    pixels = np.random.default_rng(100 * c + number).integers(0, 60, (side[1], side[0], 3))
    pixels[..., c] += 150
    return Image.fromarray(pixels.astype(np.uint8))


@pytest.fixture
def mini(tmp_path):
    """A folder as mini-ImageNet-LT's: 5, 3 and 2 training, 1 validation and 2 test images, 4 generated, 2 of them black."""
    root = tmp_path / "mini"
    rows = {"train": ["img,label"], "val": ["img,label"], "test": ["img,label"], "gentrain": []}
    (root / "images").mkdir(parents=True)
    (root / "genimages").mkdir()
    for c, synset in enumerate(IDS):
        amounts = {"train": COUNTS[c], "val": 1, "test": 2}
        place = 0
        for split, n in amounts.items():
            for _ in range(n):
                path = f"images/{synset}{place:08d}.jpg"
                picture(c, place, (20 + place, 16)).save(root / path, quality=95)
                rows[split].append(f"data/{path},{c}")
                place += 1
    for number, (c, kind) in enumerate([(1, "good"), (2, "black"), (2, "good"), (2, "black")]):
        image = picture(c, 50 + number) if kind == "good" else Image.new("RGB", (16, 16))
        image.save(root / "genimages" / f"{number}.jpg")
        rows["gentrain"].append(f"data/genimages/{number}.jpg,{c}")
    for name, content in rows.items():
        (root / f"{name}.csv").write_text("\n".join(content) + "\n")
    (root / "cls_label.json").write_text(json.dumps({str(c): n for c, n in enumerate(COUNTS)}))
    (root / "classname.txt").write_text(json.dumps(CLASSNAME))
    return root


def rewrite(path, change):
    path.write_text("".join(change(line) + "\n" for line in path.read_text().splitlines()))
    return path


def by_name(line):
    path, label = line.rsplit(",", 1)
    return f"{path},{IDS[int(label)] if label.isdecimal() else label}"


# ----------------------------------------------------------------------------------------------------------------- .csv
def test_mini_imagenet_lt_is_read_as_it_is_published(mini):
    train = read_csv_list(mini / "train.csv", mini)
    assert (len(train), train.num_classes, train.counts) == (10, 3, [5, 3, 2]) and train.labels.dtype == torch.int64
    assert train.labels.tolist() == [0] * 5 + [1] * 3 + [2] * 2 and train.names == WORDS
    assert train.paths[5] == "images/n0144076400000000.jpg" and all((mini / path).is_file() for path in train.paths)
    test = read_csv_list(mini / "test.csv", mini, train)
    assert test.labels.tolist() == [0, 0, 1, 1, 2, 2] and test.names == WORDS
    assert not set(test.paths) & set(train.paths)
    assert "genimages" not in "".join(train.paths)  # never unless it is asked for


@pytest.mark.parametrize(
    "change",
    [
        lambda line: line if line != "img,label" else "",  # no header
        lambda line: line if line != "img,label" else "Path,Label",
        lambda line: ",".join(["7", *reversed(line.split(","))]),  # other columns, in another order
        lambda line: line.replace("data/", "D:\\x\\").replace("images/", "images\\"),
        lambda line: line.replace("data/", "./"),
        lambda line: line.replace("data/images", "/home/x/data/images"),
        lambda line: f"  {line.replace(',', ' , ')} ",
    ],
    ids=["no header", "capitals", "columns", "backslashes", "dot", "absolute", "spaces"],
)
def test_both_styles_of_path_and_of_header_give_the_same_images(mini, change):
    wanted = read_csv_list(mini / "train.csv", mini)
    changed = read_csv_list(rewrite(mini / "train.csv", change), mini)
    assert changed.paths == wanted.paths and torch.equal(changed.labels, wanted.labels)


def test_images_in_folders_of_their_class_are_found_too(mini):
    for path in [*(mini / "images").iterdir()]:
        (mini / "images" / path.name[:9]).mkdir(exist_ok=True)
        path.rename(mini / "images" / path.name[:9] / path.name)
    assert read_csv_list(mini / "train.csv", mini).paths[0] == "images/n01532829/n0153282900000000.jpg"


def test_labels_that_are_names_follow_classname_or_their_own_order(mini):
    for split in ("train", "test"):
        rewrite(mini / f"{split}.csv", by_name)
    (mini / "cls_label.json").write_text(json.dumps(dict(zip(IDS, COUNTS, strict=True))))
    for order, classname in (
        (sorted(IDS), None),
        (sorted(IDS), json.dumps(CLASSNAME)),  # ImageNet's own order is that of its ids
        ([IDS[2], IDS[0], IDS[1]], "\n".join([IDS[2], IDS[0], IDS[1]]) + "\n"),
    ):
        (mini / "classname.txt").unlink(missing_ok=True)
        if classname:
            (mini / "classname.txt").write_text(classname)
        train = read_csv_list(mini / "train.csv", mini)
        assert list(train.names) == order and train.counts == [COUNTS[IDS.index(name)] for name in order]
        test = read_csv_list(mini / "test.csv", mini, train)
        assert test.labels.tolist() == [order.index(name) for name in IDS for _ in range(2)]


def test_without_classname_numbers_stay_numbers(mini):
    (mini / "classname.txt").unlink()
    assert read_csv_list(mini / "train.csv", mini).names == ("0", "1", "2")


def spoil(mini, what):
    """Change one thing in the folder; returns nothing."""
    lines = (mini / "train.csv").read_text().splitlines()
    if what == "row":
        lines[3] = "data/images/x.jpg"
    elif what == "negative":
        lines[3] = "data/images/x.jpg,-1"
    elif what == "fraction":
        lines[3] = "data/images/x.jpg,1.0"
    elif what == "header":
        lines[0] = "where,label"
    elif what == "wnid":
        lines[0] = "filename,wnid"
    elif what == "empty":
        lines = lines[:1]
    elif what == "absent":
        lines = [line.replace(",1", ",3") for line in lines]
    elif what == "missing":
        for place in range(4):
            (mini / "images" / f"n01532829{place:08d}.jpg").unlink()
    elif what == "count":
        del lines[1]
    elif what == "unknown":
        lines = [by_name(line).replace(IDS[1], "n09999999") for line in lines]
    elif what == "gone":
        (mini / "train.csv").unlink()
        return
    (mini / "train.csv").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    "what, told",
    [
        ("row", r"train\.csv, line 4: a path and a label are needed, not 'data/images/x\.jpg'"),
        ("negative", r"train\.csv, line 4: the label '-1' must be a whole number from 0 or a name\."),
        ("fraction", r"line 4: the label '1\.0' must be a whole number"),
        ("header", r"header without a column of paths: call it path"),
        ("wnid", r"header without a column of labels: call it label, beside filename"),
        ("empty", r"names no image: it needs one row path,label"),
        ("absent", r"no image of class 1: labels must be 0 \.\. C-1"),
        (
            "missing",
            r"^4 of the 10 images that .*train\.csv names are not below .*mini: data/images/.*0000\.jpg, .* \.\.\.",
        ),
        (
            "count",
            r"has 4 images of class 0 \(house_finch\) and cls_label\.json beside it says 5 \(1 of 3 classes differ",
        ),
        ("unknown", r"the label 'n09999999', which classname\.txt beside it does not have"),
        ("gone", r"cannot be read .* give a \.csv file"),
    ],
)
def test_what_cannot_be_used_is_one_sentence(mini, what, told):
    spoil(mini, what)
    with pytest.raises(CourseError) as error:
        read_csv_list(mini / "train.csv", mini)
    assert re.search(told, str(error.value)) and "\n" not in str(error.value), error.value


def test_a_test_list_with_other_classes_is_refused(mini):
    train = read_csv_list(mini / "train.csv", mini)
    (mini / "more.csv").write_text("images/n0153282900000000.jpg,3\n")
    with pytest.raises(CourseError, match="has the label 3; with 3 classes the last is 2"):
        read_csv_list(mini / "more.csv", mini, train)
    (mini / "more.csv").write_text("images/n0153282900000000.jpg,n02\n")
    with pytest.raises(CourseError, match="the label 'n02', which is no class of the training list"):
        read_csv_list(mini / "more.csv", mini, train)


@pytest.mark.parametrize("name", ["test.csv", "gentrain.csv", "test.txt"])
def test_numbers_are_refused_where_the_training_list_has_names(mini, name):
    rewrite(mini / "train.csv", by_name)
    (mini / "cls_label.json").unlink()
    train = read_csv_list(mini / "train.csv", mini)
    (mini / "test.txt").write_text("images/n0153282900000006.jpg 1\n")
    with pytest.raises(CourseError, match="'[01]', which is no class of the training list|numbers as labels and the"):
        read(mini / name, mini, train)


def test_a_test_list_with_training_images_is_refused(mini):
    train = read(mini / "train.csv", mini)
    with pytest.raises(
        CourseError, match="10 of the 10 images .* are training images, too, images/n0153282900000000.jpg f"
    ):
        read(mini / "train.csv", mini, train)
    rows = "".join(
        f"n0144076400000{number:03d}.jpg {number % 3}\n" for number in (4, 2, 1)
    )  # one of the test, two of training
    (mini / "part.txt").write_text(rows)
    with pytest.raises(
        CourseError, match="2 of the 3 images .*part.txt .* too, n0144076400000002.jpg first: give a test"
    ) as e:
        read(mini / "part.txt", mini / "images", train)  # from another folder
    assert "\n" not in str(e.value)
    assert len(read(mini / "test.csv", mini, train)) == 6


@pytest.mark.parametrize("name, line", [("train.csv", "images/n0153282900000000.jpg,"), ("t.txt", "images/a.jpg ")])
def test_a_huge_label_is_refused_at_once_and_not_counted_up_to(mini, name, line):
    with open(mini / name, "a") as file:
        file.write(f"{line}9999999999999\n")
    with pytest.raises(CourseError, match="has no image of class [03]: labels must be"):
        read(mini / name, mini)


@pytest.mark.parametrize(
    "content", ["not json", "[5, 3, 2]", '{"0": 0, "1": 1, "2": 2}', '{"0": 5}', '{"0":"5","1":1,"2":1}']
)
def test_a_cls_label_that_holds_no_counts_is_passed_over(mini, content):
    (mini / "cls_label.json").write_text(content)
    spoil(mini, "count")
    assert read_csv_list(mini / "train.csv", mini).counts == [4, 3, 2]


def test_generated_images_come_only_when_asked_for_and_never_black(mini):
    train = read_csv_list(mini / "train.csv", mini)
    more, left_out = with_generated(train, mini / "gentrain.csv")
    assert left_out == 2 and more.counts == [5, 4, 3] and more.names == WORDS
    assert more.paths == (*train.paths, "genimages/0.jpg", "genimages/2.jpg")
    assert more.labels.tolist() == [*train.labels.tolist(), 1, 2]
    Image.new("RGB", (16, 16), (0, 0, 40)).save(mini / "genimages/1.jpg")  # dark, but no failed image
    (mini / "genimages/2.jpg").write_bytes(b"no image")
    more, left_out = with_generated(train, mini / "gentrain.csv")
    assert left_out == 2 and more.paths[-2:] == ("genimages/0.jpg", "genimages/1.jpg")
    (mini / "genimages/0.jpg").unlink()
    with pytest.raises(CourseError, match=r"1 of the 4 images that .*gentrain\.csv names are not below"):
        with_generated(train, mini / "gentrain.csv")


# ---------------------------------------------------------------------------------------------------------------- .json
NATURE = {  # ids neither from 0 nor in order; the category 20 comes before 300
    "info": {"year": 2018},
    "images": [
        {"id": 7, "file_name": "train_val2018/Aves/300/a.jpg", "width": 20},
        {"id": 3, "file_name": "train_val2018/Plantae/20/b.jpg", "width": 20},
        {"id": 9, "file_name": "train_val2018/Aves/300/c.jpg", "width": 20},
    ],
    "annotations": [
        {"id": 1, "image_id": 3, "category_id": 20},
        {"id": 2, "image_id": 7, "category_id": 300},
        {"id": 3, "image_id": 9, "category_id": 300},
    ],
    "categories": [{"id": 300, "name": "Corvus corax"}, {"id": 20, "name": "Bellis perennis"}],
}


@pytest.fixture
def nature(tmp_path):
    """A folder as iNaturalist 2018's, with 3 training and 2 validation images."""
    root = tmp_path / "inat"
    val = copy.deepcopy(NATURE)
    val["images"] = [
        {"id": 1, "file_name": "train_val2018/Aves/300/d.jpg"},
        {"id": 2, "file_name": "train_val2018/Plantae/20/e.jpg"},
    ]
    val["annotations"] = [{"image_id": 1, "category_id": 300}, {"image_id": 2, "category_id": 20}]
    for number, entry in enumerate(NATURE["images"] + val["images"]):
        path = root / entry["file_name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        picture("Aves" in entry["file_name"], number).save(path, quality=95)
    (root / "train2018.json").write_text(json.dumps(NATURE))
    (root / "val2018.json").write_text(json.dumps(val))
    return root


def test_inaturalist_is_read(nature):
    train = read_inaturalist(nature / "train2018.json", nature)
    assert train.labels.tolist() == [1, 0, 1] and train.counts == [1, 2]  # the order of "images", not of "annotations"
    assert train.paths == (
        "train_val2018/Aves/300/a.jpg",
        "train_val2018/Plantae/20/b.jpg",
        "train_val2018/Aves/300/c.jpg",
    )
    assert train.names == ("Bellis perennis", "Corvus corax")
    val = read_inaturalist(nature / "val2018.json", nature, train)
    assert val.labels.tolist() == [1, 0] and val.num_classes == 2
    (nature / "val2018.json").write_bytes(b"\xef\xbb\xbf" + (nature / "val2018.json").read_bytes())
    assert read_inaturalist(nature / "val2018.json", nature, train).paths == val.paths
    inside = read_inaturalist(nature / "train2018.json", nature / "train_val2018")
    assert inside.paths[1] == "Plantae/20/b.jpg"


def annotated(image, category):
    return lambda content: content["annotations"].append({"image_id": image, "category_id": category})


@pytest.mark.parametrize(
    "change, told",
    [
        (lambda content: content["images"].append(dict(content["images"][0])), "has the image id 7 more than once"),
        (
            lambda content: content["categories"].append({"id": 20, "name": "x"}),
            "has the category id 20 more than once",
        ),
        (annotated(8, 20), "an annotation of the image 8, which is not among its images"),
        (lambda content: content["annotations"][0].update(category_id=21), "gives image 3 the category 21"),
        (annotated(7, 20), "gives image 7 two categories"),
        (lambda content: content["annotations"].pop(), "has 1 images without an annotation, the first: .*/c.jpg"),
        (lambda content: content["categories"].append({"id": 25, "name": "x"}), "has no image of class 1"),
        (
            lambda content: content.pop("annotations"),
            r"is no list of images \(KeyError\('annotations'\)\): it needs images",
        ),
        (lambda content: content["images"][0].pop("file_name"), "is no list of images"),
        (lambda content: content["images"][0].update(id=[7]), "an id is no whole number"),
        (lambda content: content["annotations"].clear(), "names no image with a category"),
        (
            lambda content: content["images"][0].update(file_name="x.jpg"),
            "1 of the 3 images that .* are not below .*: x.jpg;",
        ),
    ],
)
def test_a_json_that_cannot_be_used_is_one_sentence(nature, change, told):
    content = copy.deepcopy(NATURE)
    change(content)
    (nature / "train2018.json").write_text(json.dumps(content))
    with pytest.raises(CourseError) as error:
        read_inaturalist(nature / "train2018.json", nature)
    assert re.search(told, str(error.value)) and "\n" not in str(error.value), error.value


def test_validation_images_need_the_categories_of_the_training_images(nature):
    train = read_inaturalist(nature / "train2018.json", nature)
    content = json.loads((nature / "val2018.json").read_text())
    content["categories"].append({"id": 1, "name": "x"})
    (nature / "val2018.json").write_text(json.dumps(content))
    with pytest.raises(CourseError, match="other categories than the training list"):
        read_inaturalist(nature / "val2018.json", nature, train)
    for text in ("half {", "[]"):
        (nature / "val2018.json").write_text(text)
        with pytest.raises(CourseError, match="is no list of images"):
            read_inaturalist(nature / "val2018.json", nature, train)
    with pytest.raises(CourseError, match="cannot be read"):
        read_inaturalist(nature / "nothing.json", nature)


# ---------------------------------------------------------------------------------------------------------- imagenet_lt
def settings_for(tmp_path, train, test, **more):
    content = yaml.safe_load((REPOSITORY / "config" / "imagenet_lt.yaml").read_text(encoding="utf-8"))
    content |= {"train": {"list": str(train), "root": str(train.parent)}} | more
    content |= {"test": {"list": str(test), "root": str(test.parent)}}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(content))
    return experiment.read_settings(tmp_path / "own.yaml")


def test_imagenet_lt_reads_lists_by_their_suffix(tmp_path, mini, nature):
    train, test = experiment.read_lists(settings_for(tmp_path, mini / "train.csv", mini / "test.csv"))
    assert train.counts == [5, 3, 2] and test.counts == [2, 2, 2] and test.names == WORDS
    train, test = experiment.read_lists(settings_for(tmp_path, nature / "train2018.json", nature / "val2018.json"))
    assert train.counts == [1, 2] and test.counts == [1, 1]
    (mini / "plain.txt").write_text("images/n0153282900000000.jpg 0\nimages/n0144076400000000.jpg 1\n")
    (mini / "other.txt").write_text("images/n0153282900000006.jpg 0\nimages/n0144076400000004.jpg 1\n")
    train, test = experiment.read_lists(settings_for(tmp_path, mini / "plain.txt", mini / "other.txt"))
    assert train.counts == test.counts == [1, 1] and train.names == ()


def test_another_data_set_is_never_called_imagenet_lt(tmp_path, mini, monkeypatch):
    monkeypatch.setenv("LT_RUNS", str(tmp_path / "runs"))
    seen = []
    monkeypatch.setattr(experiment, "_run_one", lambda run, *_: seen.append((run.name, run.parameters["DATASET"])))
    lists_of = (tmp_path, mini / "train.csv", mini / "test.csv")
    experiment.run_all(settings_for(*lists_of, name="mini-imagenet-lt"))
    experiment.run_all(settings_for(*lists_of))
    assert seen[::2] == [("mini_imagenet_lt/ce-seed0", "mini-imagenet-lt"), ("imagenet_lt/ce-seed0", "imagenet-lt")]


# ------------------------------------------------------------------------------------------------------------ data_prep
@pytest.fixture
def prepared(tmp_path, monkeypatch, capsys):
    """Run `python -m data_prep`; returns the data set, or the sentence that refuses it, and the record."""
    monkeypatch.setenv("LT_DATA", str(tmp_path / "prepared"))

    def run(name, *options):
        capsys.readouterr()
        status = main([name, *map(str, options)])
        told = capsys.readouterr()
        if status:
            assert status == 2 and told.err.count("\n") == 1
            return told.err, told.out
        return datasets.load(name), json.loads((tmp_path / "prepared" / f"{name}.json").read_text())

    return run


def test_mini_imagenet_lt_becomes_a_data_set_of_any_size(mini, prepared):
    data, record = prepared("mini-imagenet-lt", "--from", mini, "--size", 8)
    assert (data.counts, data.size, data.channels, data.class_names) == ([5, 3, 2], 8, 3, WORDS)
    assert data.test_labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert torch.equal(data.train_images.float().mean((2, 3)).argmax(1), data.train_labels)  # the colour of the class
    assert record["lists"] == "training train.csv, test test.csv; val.csv is left out" and "generated" not in record
    assert "not ImageNet-LT" in record["source"] and record["licence"].startswith("see the source")
    assert prepared("other", "--from", mini, "--size", 16)[0].size == 16
    assert "generated" not in prepared("other", "--from", mini, "--size", 16)[1]  # there already, and asked for alike


def test_generated_images_join_only_with_the_option(mini, prepared):
    data, record = prepared("mini-imagenet-lt", "--from", mini, "--size", 8, "--generated")
    assert data.counts == [5, 4, 3] and len(data.test_labels) == 6
    assert record["generated"] == "2 training images are generated (gentrain.csv); 2 black left out"
    assert "with other options" in prepared("mini-imagenet-lt", "--from", mini, "--size", 8)[0]
    (mini / "gentrain.csv").unlink()
    assert "has no gentrain.csv: leave out --generated" in prepared("b", "--from", mini, "--size", 8, "--generated")[0]
    assert "--generated is for a folder" in prepared("c", "--from", mini / "images", "--size", 8, "--generated")[0]


def test_inaturalist_becomes_a_data_set(nature, prepared):
    data, record = prepared("inat18", "--from", nature, "--size", 8)
    assert (data.counts, data.test_labels.tolist(), data.size) == ([2, 1], [0, 1], 8)  # the most frequent is class 0
    assert data.class_names == ("Corvus corax", "Bellis perennis") and "iNaturalist 2018" in record["source"]


def test_lists_that_data_prep_cannot_use(mini, nature, prepared):
    assert "add --size N" in prepared("a", "--from", mini)[0]
    assert "has its own test set" in prepared("a", "--from", mini, "--size", 8, "--test-fraction", 0.5)[0]
    (mini / "images" / "n0153282900000001.jpg").write_bytes(b"no image")
    assert "1 of 10 files are not readable" in prepared("a", "--from", mini, "--size", 8)[0]
    data, record = prepared("a", "--from", mini, "--size", 8, "--skip-bad")
    assert data.counts == [4, 3, 2] and len(record["left_out"]) == 1 and record["source"] == "own data"
    assert torch.equal(data.train_images.float().mean((2, 3)).argmax(1), data.train_labels)
    (nature / "val2018.json").unlink()
    assert "has train2018.json but no val2018.json: add it" in prepared("b", "--from", nature, "--size", 8)[0]


@pytest.mark.parametrize(
    "options, told",
    [
        (("--size", 8, "--test-fraction", 0.5), "has its own test set"),
        (("--size", 8), "test.csv has no image of class 2"),
        (("--size", 200_000), "need 1,920.0 GB of memory"),
    ],
)
def test_what_cannot_become_a_set_is_refused_before_images_are_decoded(mini, prepared, monkeypatch, options, told):
    monkeypatch.setattr(images, "decode", lambda *_: pytest.fail("an image is decoded"))
    if len(options) == 2 and options[1] == 8:
        rewrite(mini / "test.csv", lambda line: line.removesuffix(",2") + ",1" if line.endswith(",2") else line)
    assert told in prepared("a", "--from", mini, *options)[0]


def test_grey_images_among_them_become_rgb(mini, prepared):
    Image.new("L", (9, 9), 200).save(mini / "images" / "n0153282900000002.jpg")
    data, _ = prepared("a", "--from", mini, "--size", 8)
    assert data.channels == 3 and (data.train_images[2] == 200).all()


def test_a_set_prepared_before_there_was_the_option_is_still_the_same(mini, prepared, tmp_path):
    prepared("a", "--from", mini, "--size", 8)
    path = tmp_path / "prepared" / "a.json"
    record = json.loads(path.read_text())
    del record["request"]["generated"]
    path.write_text(json.dumps(record))
    assert prepared("a", "--from", mini, "--size", 8)[0].counts == [5, 3, 2]
