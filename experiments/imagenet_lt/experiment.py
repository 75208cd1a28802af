"""ImageNet-LT from its file lists to a record: ResNet-10 trained, every image encoded once, the head retrained.

    python -m experiments.imagenet_lt config/imagenet_lt.yaml [train] [encode] [retrain]

Without a stage all three run. Those of a vision transformer, pretrain, finetune and test, run when they are named; see livt.py.
What is finished is passed over and a training that was stopped goes on, so the same
command can be given again. For each method and seed there is a run folder, <runs>/imagenet_lt/<method>-seed<seed>
(`name:` in the configuration is that of another data set, for its rows and its folder):

    checkpoints/encoder.safetensors   ResNet-10 after the last epoch
    features.safetensors              features [N, 512] and labels of all training and test images, and the head
    record.json                       accuracies: the encoder's own, and after retraining with each source of features
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor

from course.batch.plan import check_once
from course.command import first_line, resumable
from data_prep.lists import formats
from data_prep.lists.image_files import ImageFiles
from experiments.imagenet_lt import livt
from experiments.imagenet_lt.encoder import ResNet10, encode_files, train_encoder
from lt_utils.data import datasets
from lt_utils.data.longtail import group_indices
from lt_utils.diffusion.feature_diffusion import train_feature_diffusion
from lt_utils.errors import CourseError, choose
from lt_utils.features.augmentation import CONTROLS, classes_of, from_generator, ratio_amounts
from lt_utils.features.encoding import Encoded
from lt_utils.features.retraining import result_rows, retrain_head, test_scores
from lt_utils.files import is_name, read_yaml
from lt_utils.models.heads import HEADS, build_head
from lt_utils.runs.folder import Run, lock_run_folder, root
from lt_utils.runs.parameters import MOST_SEED, check_part
from lt_utils.training import checkpoints
from lt_utils.training.devices import device
from lt_utils.viz.tables import markdown

STAGES = ("train", "encode", "retrain")
# What a configuration must say, with a value of the right kind for each.
LIST = {"list": "ImageNet_LT_train.txt", "root": "imagenet"}
METHOD = {"head": "linear", "epochs": 90, "batch_size": 128, "lr": 0.2, "weight_decay": 5e-4}
GENERATOR = {"steps": 20000, "width": 512, "blocks": 4, "batch_size": 1024}
RETRAINING = {"ratio": 0.2, "group": "few", "epochs": 400}
SETTINGS = {"name": "imagenet-lt", "train": LIST, "test": LIST, "size": 224, "workers": None, "seeds": []}
SETTINGS |= {"methods": {"CE": METHOD}, "generator": GENERATOR, "retraining": RETRAINING}


def read_settings(path: str | Path) -> dict:
    """The content of config/imagenet_lt.yaml. CourseError for a key that is missing, unknown or without sense."""
    settings, name = read_yaml(Path(path)), Path(path).name
    if isinstance(settings, dict):
        settings.setdefault("name", SETTINGS["name"])
    livt_section = settings.pop("livt", None) if isinstance(settings, dict) else None
    check_part(settings, SETTINGS, name)
    if not is_name(settings["name"]):  # it becomes a folder below the runs
        raise CourseError(f"{name}: name must be one of letters, digits and . _ -, not {settings['name']!r}.")
    for part in ("train", "test", "generator", "retraining"):
        check_part(settings[part], SETTINGS[part], f"{name}, {part}")
    for method, values in settings["methods"].items():
        check_part(values, METHOD, f"{name}, {method}")
        choose("head", values["head"], HEADS)
    livt.check_methods(settings["methods"], name)
    if settings["generator"]["width"] % 2:
        raise CourseError(f"{name}, generator: width must be even, not {settings['generator']['width']}.")
    if not settings["seeds"] or not all(type(seed) is int and 0 <= seed <= MOST_SEED for seed in settings["seeds"]):
        raise CourseError(
            f"{name}: seeds must be a list of whole numbers from 0 to {MOST_SEED}, not {settings['seeds']}."
        )
    check_once(settings["seeds"], f"{name}: seeds")
    workers = settings["workers"]
    if workers is not None and not (type(workers) is int and workers >= 0):
        raise CourseError(f"{name}: workers must be null or a whole number from 0, not {workers!r}.")
    choose("group", settings["retraining"]["group"], ("all", "many", "medium", "few"))
    if livt_section is not None:
        livt.check_section(livt_section, f"{name}, livt")
        settings["livt"] = livt_section
    return settings


def read_lists(settings: dict) -> tuple[ImageFiles, ImageFiles]:
    """The training and the test images that the settings name; relative paths start from the data folder."""
    folder, train_files, test_files = datasets.data_folder(), settings["train"], settings["test"]
    first = formats.read(folder / train_files["list"], folder / train_files["root"])
    return first, formats.read(folder / test_files["list"], folder / test_files["root"], first)


# ------------------------------------------------------------------------------------------------------------- features
def save_features(path: Path, model: ResNet10, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]) -> None:
    """Write (features, labels) of the training and test images, and the head of `model`, as `load_features` reads it."""
    tensors = {"train": train[0], "train_labels": train[1], "test": test[0], "test_labels": test[1]}
    tensors |= {f"head.{name}": value for name, value in model.head.state_dict().items()}
    checkpoints.save(path, tensors, {"head": model.config["head"], "classes": model.config["num_classes"]})


def load_features(path: str | Path, where: torch.device | str = "cpu") -> Encoded:
    """What `save_features` wrote, ready for retraining and generators. CourseError if it is no such file."""
    tensors, facts = checkpoints.load(path)
    if "train_labels" not in tensors:
        raise CourseError(
            f"{path} holds no features: give the features.safetensors of a run of experiments.imagenet_lt.experiment."
        )
    head = build_head(facts["head"], tensors["train"].shape[1], facts["classes"])
    stored = {name.removeprefix("head."): value for name, value in tensors.items() if name.startswith("head.")}
    checkpoints.load_into(head, stored, path)
    head.to(where).eval()
    train, train_labels, test, test_labels = (
        tensors[name].to(where) for name in ("train", "train_labels", "test", "test_labels")
    )
    with torch.no_grad():
        logits = head(test)
    counts = torch.bincount(train_labels, minlength=facts["classes"]).tolist()
    return Encoded(train, train_labels, test, test_labels, logits, head, counts)


# ----------------------------------------------------------------------------------------------------------- retraining
def generation_amounts(counts: list[int], ratio: float, group: str = "few") -> list[int]:
    """LDMLR's rule on ImageNet-LT: max(round(ratio n_c), 5) features for the classes of a group, 0 for the others, [C].

    Its groups go by training images: many has 100 or more, medium 21 to 99, few 20 or fewer. (Accuracies are reported
    for the usual ones: more than 100, 20 to 100, fewer than 20.) CourseError for a group without a class.
    """
    chosen = classes_of(group, group_indices(counts, many=99, few=21), len(counts))
    return [n if c in chosen else 0 for c, n in enumerate(ratio_amounts(counts, ratio))]


def retrained_rows(encoded: Encoded, method: str, seed: int, settings: dict, run: Run) -> list[dict]:
    """Rows for the record: the encoder with its own head, then with the head retrained on features of every source."""
    same = {"data": settings["name"], "imbalance": round(max(encoded.counts) / min(encoded.counts)), "seed": seed}
    names = {"plain": method, "label shift": "Label shift" if method == "CE" else f"{method} + label shift"}
    rows = [
        {"method": names[test], **same, "encoder": method, "recipe": "-", "test": test, **values}
        for test, values in test_scores(encoded.head, encoded).items()
    ]
    chosen, sizes = settings["retraining"], settings["generator"]
    name = f"generator-{encoded.key}-{sizes['width']}x{sizes['blocks']}-{sizes['batch_size']}x{sizes['steps']}"
    generator = train_feature_diffusion(
        encoded.train, encoded.train_labels, encoded.num_classes, **sizes, seed=seed, checkpoint=run.checkpoint(name)
    )
    amounts = generation_amounts(encoded.counts, chosen["ratio"], chosen["group"])
    for source_name, source in {**CONTROLS, f"{method} + LDMLR": from_generator(generator)}.items():
        added = source(encoded.train, encoded.train_labels, amounts, seed=seed)
        retrained = retrain_head(encoded, *added, epochs=chosen["epochs"], seed=seed)
        columns = {**same, "encoder": method, "recipe": f"r={chosen['ratio']:g} {chosen['group']}"}
        rows += result_rows(retrained, encoded, method=source_name, **columns)
        print(f"{method}, seed {seed}: retrained, {source_name}", flush=True)
    return rows


# --------------------------------------------------------------------------------------------------------- command line
def run_all(settings: dict, stages: tuple[str, ...] = STAGES) -> None:
    """The stages for every method and seed. CourseError if one needs what an earlier stage has not made yet."""
    of_transformer = tuple(stage for stage in livt.STAGES if stage in stages)
    if of_transformer and "livt" not in settings:
        raise CourseError(f"The stage {of_transformer[0]} needs a section livt: copy that of config/imagenet_lt.yaml.")
    lists = dict(zip(("training", "test"), read_lists(settings), strict=True))
    for name, files in lists.items():
        print(f"{name}: {files}", flush=True)
    if of_transformer:
        livt.run_stages(settings, of_transformer, tuple(lists.values()))
    if not set(stages) & set(STAGES):
        return
    images = {
        name: files.key for name, files in lists.items()
    }  # what the lists say: their paths stay when they are edited
    chosen = settings["retraining"]
    generation_amounts(lists["training"].counts, chosen["ratio"], chosen["group"])  # refuses a group without a class
    for method, recipe in settings["methods"].items():
        if settings["size"] <= 32 and (len(lists["training"]) - 1) % recipe["batch_size"] == 0:
            raise CourseError(
                f"{method}: a batch has one image alone, whose features at size 32 or less are one number a channel, which "
                "batch normalisation cannot train on: choose another batch."
            )
    for method, recipe in settings["methods"].items():
        for seed in settings["seeds"]:
            data = {key: settings[key] for key in ("train", "test", "size")} | {"images": images}
            decides = {"DATASET": settings["name"], "METHOD": method, "SEED": seed, **recipe, **data}
            folder = root() / settings["name"].replace("-", "_") / f"{method}-seed{seed}".lower()
            lock_run_folder(folder, "imagenet_lt", decides)
            later = {key: settings[key] for key in ("generator", "retraining")}
            run = Run(folder, "imagenet_lt", {**decides, **later})
            _run_one(run, settings, stages, *lists.values())


def _run_one(run: Run, settings: dict, stages: tuple[str, ...], files: ImageFiles, test_files: ImageFiles) -> None:
    method, seed = run.parameters["METHOD"], run.parameters["SEED"]
    label, view = f"{method}, seed {seed}", {key: settings[key] for key in ("size", "workers")}
    encoder, features = run.checkpoint("encoder"), run.file("features.safetensors")
    if "train" in stages and not encoder.exists():
        state, recipe = run.checkpoint("encoder-training"), settings["methods"][method]
        model = train_encoder(files, **recipe, **view, seed=seed, checkpoint=state, title=label)
        checkpoints.save_model(encoder, model, method=method, seed=seed)
        state.unlink(missing_ok=True)
    if "encode" in stages and not features.exists():
        if not encoder.exists():
            raise CourseError(f"{run.name} has no trained encoder yet: run the stage train first.")
        model, _ = checkpoints.load_model(encoder, ResNet10, device())
        model.to(memory_format=torch.channels_last)
        pairs = [(encode_files(model, part, **view), part.labels) for part in (files, test_files)]
        save_features(features, model, *pairs)
        print(f"{label}: {len(files):,} training and {len(test_files):,} test images encoded", flush=True)
    if "retrain" in stages:
        if not features.exists():
            raise CourseError(f"{run.name} has no features yet: run the stage encode first.")
        if (run.record or {}).get("parameters") != run.parameters:
            run.finish(retrained_rows(load_features(features, device()), method, seed, settings, run))
        columns = ("method", "recipe", "test", "accuracy", "many", "medium", "few", "best_test_epoch")
        print(f"{label}\n{markdown(run.record['rows'], columns)}", flush=True)


@resumable
def main(arguments: list[str] | None = None) -> int:
    """The command line; exit status 0, 2 with one sentence, or 130 when it was stopped."""
    parser = argparse.ArgumentParser(prog="python -m experiments.imagenet_lt", description=first_line(__doc__))
    parser.add_argument("config", type=Path, help="config/imagenet_lt.yaml, or your own")
    told = f"some of {', '.join(STAGES)} (default: these) and, of the transformer, {', '.join(livt.STAGES)}"
    parser.add_argument("stages", nargs="*", help=told)
    chosen = parser.parse_args(arguments)
    stages = tuple(choose("stage", stage, STAGES + livt.STAGES) for stage in chosen.stages)
    run_all(read_settings(chosen.config), stages or STAGES)
    return 0
