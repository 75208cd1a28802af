"""LiVT on a list of images: the section `livt` of a configuration, and its stages pretrain, finetune and test.

Runs lie in <runs>/<name>_vit/: pretraining-seed0 has the masked autoencoder, <method>-seed0 a classifier and its record.json.
"""

import torch

from data_prep.lists.image_files import ImageFiles
from experiments.imagenet_lt.transformer import build_classifier, build_mae, finetune, logits_of, pretrain
from lt_utils.errors import CourseError, choose
from lt_utils.metrics.recognition import full_scores
from lt_utils.models.mae import MaskedAutoencoder, kept_patches
from lt_utils.models.vit import VIT_SIZES, ViT
from lt_utils.recognition.losses import build_loss
from lt_utils.recognition.masked import balanced_scores
from lt_utils.runs.folder import Run, lock_run_folder, root
from lt_utils.runs.parameters import check_part
from lt_utils.training import checkpoints
from lt_utils.training.devices import device
from lt_utils.viz.tables import markdown

STAGES = ("pretrain", "finetune", "test")
# What the section must say, with a value of the right kind for each.
NETWORK = {"size": "base", "patch": 16, "mean": [0.5], "std": [0.5]}
PRETRAINING = {"size": 224, "epochs": 800, "warmup": 40, "batch_size": 1024, "lr": 6e-4, "weight_decay": 0.05}
PRETRAINING |= {"mask_ratio": 0.75, "decoder": [512, 8, 16]}
METHOD = {
    "pretrained": True,
    "size": 224,
    "epochs": 100,
    "warmup": 5,
    "batch_size": 2048,
    "lr": 8e-3,
    "weight_decay": 0.05,
}
METHOD |= {"layer_decay": 0.75, "drop_path": 0.1, "loss": "bal-bce", "settings": {}, "smoothing": 0.1, "mixed": True}
METHOD |= {"randaugment": True, "erasing": 0.25}
SECTION = {"network": NETWORK, "pretraining": PRETRAINING, "methods": {"LiVT": METHOD}, "at_once": 256}
READ_OUTS = ("ce", "bal-ce", "bce", "bal-bce")  # losses whose exact read-out is known


def check_methods(methods: dict, where: str) -> None:
    """CourseError unless there are methods, whose names can be those of folders beside each other."""
    names = {str(method).lower() for method in methods}
    if not names or len(names) < len(methods):
        raise CourseError(f"{where}: methods must be one or more, of names that differ in more than capitals.")
    if strange := [name for name in names if set(name) & set("/\\")]:
        raise CourseError(f"{where}: the name of a method cannot have a slash, as {strange[0]!r} has.")


def check_section(section: object, where: str) -> None:
    """CourseError for a section that cannot run, before any work: networks are built, too, without memory for their weights."""
    check_part(section, SECTION, where)
    check_part(section["network"], NETWORK, f"{where}, network")
    check_part(section["pretraining"], PRETRAINING, f"{where}, pretraining")
    network, methods = section["network"], section["methods"]
    choose("size of a transformer", network["size"], VIT_SIZES)
    check_methods(methods, where)
    if "pretraining" in map(str.lower, map(str, methods)):
        raise CourseError(
            f"{where}: no method can be called pretraining, for that is the name of the first stage's folder."
        )
    given = section["pretraining"]
    if len(given["decoder"]) != 3:
        raise CourseError(f"{where}, pretraining: decoder must be [width, depth, heads], not {given['decoder']}.")
    _check_warmup(given, f"{where}, pretraining")
    with torch.device("meta"):
        model = build_mae(network, given["size"], given["decoder"])
        kept_patches(model.encoder.side**2, given["mask_ratio"])
        for method, values in methods.items():
            check_part(values, METHOD, f"{where}, {method}")
            _check_warmup(values, f"{where}, {method}")
            for share in ("drop_path", "smoothing", "erasing"):
                if values[share] > 1 - (share != "erasing") * 1e-9:
                    raise CourseError(f"{where}, {method}: {share} is a share below 1, not {values[share]}.")
            build_classifier(network, values["size"], 2, values["drop_path"])
    for values in methods.values():
        build_loss(values["loss"], [2, 1], **values["settings"])


def _check_warmup(values: dict, where: str) -> None:
    if values["warmup"] >= values["epochs"]:
        raise CourseError(
            f"{where}: a warm-up of {values['warmup']} leaves nothing of {values['epochs']} epochs: shorten it."
        )


def run_stages(settings: dict, stages: tuple[str, ...], lists: tuple[ImageFiles, ImageFiles]) -> None:
    """The stages for every method and seed. CourseError if one needs what an earlier stage has not made yet."""
    section, (files, test_files) = settings["livt"], lists
    for seed in settings["seeds"]:
        common = {
            "DATASET": settings["name"],
            "SEED": seed,
            "network": section["network"],
            "at_once": section["at_once"],
        }
        common |= {"train": settings["train"], "images": files.key}
        base = {"METHOD": "pretraining", **common, "pretraining": section["pretraining"]}
        needed = any(values["pretrained"] for values in section["methods"].values())
        first = _open(settings, "pretraining", seed, base) if "pretrain" in stages or needed else None
        if "pretrain" in stages:
            _pretrain(first, section, files, seed, settings["workers"])
        for method, values in section["methods"].items():
            what = (base if values["pretrained"] else common) | {"METHOD": method, "test": settings["test"]}
            run = _open(settings, method, seed, what | {"method": values, "test images": test_files.key})
            if "finetune" in stages:
                _finetune(run, first if values["pretrained"] else None, section, files, settings["workers"])
            if "test" in stages:
                _test(run, files, test_files, settings["workers"])


def _open(settings: dict, name: str, seed: int, decides: dict) -> Run:
    folder = root() / f"{settings['name'].replace('-', '_')}_vit" / f"{name}-seed{seed}".lower()
    lock_run_folder(folder, "imagenet_lt", decides)
    return Run(folder, "imagenet_lt", decides)


def _pretrain(run: Run, section: dict, files: ImageFiles, seed: int, workers: int | None) -> None:
    done, state = run.checkpoint("mae"), run.checkpoint("mae-training")
    if not done.exists():
        given = dict(**section["pretraining"], at_once=section["at_once"], seed=seed, workers=workers)
        title = f"masked pretraining, seed {seed}"
        model = pretrain(files, section["network"], **given, checkpoint=state, title=title)
        losses = checkpoints.load(state)[0]["losses"]
        checkpoints.save_model(done, model, seed=seed, last_loss=float(losses[-100:].mean()))
    state.unlink(missing_ok=True)


def _finetune(run: Run, first: Run | None, section: dict, files: ImageFiles, workers: int | None) -> None:
    done, state, source = run.checkpoint("vit"), run.checkpoint("vit-training"), None
    if not done.exists():
        if first is not None:
            if not first.checkpoint("mae").exists():
                raise CourseError(f"{first.name} has no pretrained encoder yet: run the stage pretrain first.")
            source, _ = checkpoints.load_model(first.checkpoint("mae"), MaskedAutoencoder, device())
        given = {key: value for key, value in run.parameters["method"].items() if key != "pretrained"}
        seed, title = run.parameters["SEED"], f"{run.parameters['METHOD']}, seed {run.parameters['SEED']}"
        given |= dict(at_once=section["at_once"], seed=seed, workers=workers, checkpoint=state, title=title)
        model = finetune(files, section["network"], source, **given)
        checkpoints.save_model(done, model, method=run.parameters["METHOD"], seed=seed)
    state.unlink(missing_ok=True)


def _test(run: Run, files: ImageFiles, test_files: ImageFiles, workers: int | None) -> None:
    method, seed, given = run.parameters["METHOD"], run.parameters["SEED"], run.parameters["method"]
    if run.record is None:
        if not run.checkpoint("vit").exists():
            raise CourseError(f"{run.name} has no classifier yet: run the stage finetune first.")
        model, _ = checkpoints.load_model(run.checkpoint("vit"), ViT, device())
        logits = logits_of(model, test_files, workers)
        outs = {"argmax": logits}
        if given["loss"] in READ_OUTS:
            tau = given["settings"].get("tau", 1.0)
            outs["exact"] = balanced_scores(given["loss"], logits, files.counts, tau)
        factor = round(max(files.counts) / min(files.counts))
        same = {
            "method": method,
            "data": run.parameters["DATASET"],
            "imbalance": factor,
            "seed": seed,
            "loss": given["loss"],
        }
        run.finish(
            [same | {"read-out": out} | full_scores(z, test_files.labels, files.counts) for out, z in outs.items()]
        )
    columns = ("method", "read-out", "accuracy", "many", "medium", "few", "top5", "ece", "pdc")
    print(f"{method}, seed {seed}\n{markdown(run.record['rows'], columns)}", flush=True)
