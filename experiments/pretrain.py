"""Train again what the course ships: the judge, encoders and image generators of config/pretrained.yaml, each by its name.

    python -m experiments.pretrain judge regular-seed0 ce-seed1
    python -m experiments.pretrain --list

Each leaves in --folder (default runs/pretrained) NAME.safetensors, the weights in half precision; NAME.json, its card; a
generator also NAME.png, a sheet of samples, a row for each class. A training that was stopped goes on where it was; what is
finished stays.
The numbers of a card are those of the weights as they are stored. Test images serve for these alone: with
--reference train the balanced training images take their place, and nothing is chosen by the test set.
"""

import argparse
import sys
import time
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor
from torchvision.transforms.functional import to_pil_image
from torchvision.utils import make_grid

from course.command import first_line, resumable
from lt_utils.data.datasets import ImageData, file_of, load
from lt_utils.data.npz import sha256
from lt_utils.diffusion.class_balancing import MECHANISMS, train_generator
from lt_utils.diffusion.generate import balanced_labels, sample_to
from lt_utils.diffusion.schedules import SCHEDULES, Schedule
from lt_utils.errors import choose
from lt_utils.files import REPOSITORY, read_json, read_yaml, write_json
from lt_utils.hashing import fingerprint
from lt_utils.metrics.extractors import encoder_extractor
from lt_utils.metrics.generation import label_accuracy, measure
from lt_utils.metrics.neighbours import group_memorisation
from lt_utils.metrics.recognition import accuracy, class_accuracy
from lt_utils.models.resnet import ResNet, encode
from lt_utils.models.unet import UNet
from lt_utils.recognition.encoders import encoder_recipe, train_encoder, train_judge
from lt_utils.runs.provenance import surroundings
from lt_utils.training import checkpoints
from lt_utils.training.devices import device
from lt_utils.training.lr_schedules import warmup_cosine

PER_ROW = 16  # samples of a class on a sheet
FIRST = 10  # losses of an encoder's first steps that its card holds


class Pretraining:
    """What config/pretrained.yaml asks for, made in `folder`; `reference`: "test" or "train", the real images compared with."""

    def __init__(self, settings: dict, folder: Path, reference: str = "test") -> None:
        self.settings, self.folder, self.reference = settings, folder, choose("reference", reference, ("test", "train"))
        self.names = ["judge", *settings["encoders"], *settings["generators"]]
        self.whole = load(settings["data"])
        self.tail = self.whole.long_tailed(settings["imbalance"], seed=settings["subset_seed"])

    def path(self, name: str) -> Path:
        """The finished weights of one of `names`."""
        return self.folder / f"{name}.safetensors"

    def make(self, name: str) -> dict:
        """The card of one of `names`: read if it is there, else trained, measured and written, last of all files."""
        choose("name", name, self.names)
        if card := read_json(self.folder / f"{name}.json"):
            return card
        if name == "judge":
            card = self._judge(name)
        else:
            card = self._encoder(name) if name in self.settings["encoders"] else self._generator(name)
        write_json(self.folder / f"{name}.json", card)
        return card

    @cached_property
    def judge(self) -> ResNet:
        """The judge as it is stored; made if there is none yet."""
        self.make("judge")
        return checkpoints.load_model(self.path("judge"), ResNet, device())[0]

    def _sets(self, of: dict) -> tuple[ImageData, ImageData]:
        """The whole data set and its long tail that a training, `of` its line, asks for: one set serves all that name none."""
        if of.get("data", self.settings["data"]) == self.settings["data"]:
            return self.whole, self.tail
        whole = load(of["data"])
        return whole, whole.long_tailed(self.settings["imbalance"], seed=self.settings["subset_seed"])

    def _data(self, whole: ImageData, data: ImageData) -> dict:
        cut = {} if data is whole else {k: self.settings[k] for k in ("imbalance", "subset_seed")}
        return {"key": data.key, **cut, "counts": data.counts, "sha256_of_the_file": sha256(file_of(whole.name))}

    def _card(self, name: str, data: dict, recipe: dict, begun: tuple[dict, float], **more: object) -> dict:
        """Where it comes from, and how long it took: seconds on the clock, and of the processor since it last went on."""
        path, (around, cpu) = self.path(name), begun
        weights, facts = checkpoints.load(path)
        _, training = checkpoints.load(self._training(name))
        return {
            "name": name,
            "file": path.name,
            "bytes": path.stat().st_size,
            "sha256": sha256(path),
            "network": {"class": facts["class"], **facts["config"]},
            "parameters": sum(w.numel() for w in weights.values() if w.is_floating_point()),
            "data": data,
            "recipe": recipe,
            "steps": training["step"],
            "seconds": round(training["seconds"]),
            "cpu_seconds_since_resumed": round(cpu),
            **around,
            **more,
        }

    def _training(self, name: str) -> Path:
        return self.folder / "training" / f"{name}.safetensors"

    def _judge(self, name: str) -> dict:
        recipe, around, began = self.settings["judge"], surroundings(), time.process_time()
        model = train_judge(self.whole, **recipe, checkpoint=self._training(name))
        begun = around, time.process_time() - began
        found = self._classifier(name, model, self.whole)
        return self._card(name, self._data(self.whole, self.whole), recipe, begun, measures=found)

    def _encoder(self, name: str) -> dict:
        """Of an encoder the card also holds losses: of the first steps, and the mean of each epoch."""
        options = self.settings["encoder"] | self.settings["encoders"][name]
        whole, tail = self._sets(options)
        options.pop("data", None)
        around, began = surroundings(), time.process_time()
        model = train_encoder(tail, **options, checkpoint=self._training(name), title=name)
        begun, recipe = (around, time.process_time() - began), encoder_recipe(tail, **options)
        losses = checkpoints.load(self._training(name))[0]["losses"]
        epochs = losses.view(options["epochs"], -1).mean(1)
        told = {"first_steps": losses[:FIRST].tolist(), "epochs": [round(value, 4) for value in epochs.tolist()]}
        found = self._classifier(name, model, whole)
        return self._card(name, self._data(whole, tail), recipe, begun, measures=found, losses=told)

    def _classifier(self, name: str, model: ResNet, data: ImageData) -> dict:
        """Store a classifier; measures of the stored one."""
        checkpoints.save_model(self.path(name), model, half=True)
        model = checkpoints.load_model(self.path(name), ResNet, device())[0]
        logits, labels = encode(model, data.test_images)[1].cpu(), data.test_labels
        return {
            "accuracy_on_test_images": round(accuracy(logits, labels), 2),
            "by_class": [round(value, 1) for value in class_accuracy(logits, labels).tolist()],
            "test_images": len(labels),
        }

    def _generator(self, name: str) -> dict:
        # What is said of all, and of this one, which goes before; a fine-tuned one starts from the weights of another.
        recipe = self.settings["training"] | self.settings["generators"][name]
        around, began = surroundings(), time.process_time()
        mechanism, seed = choose("mechanism", recipe["mechanism"], MECHANISMS), recipe["seed"]
        whole, tail = self._sets(recipe)
        data = whole if recipe["set"] == "balanced" else tail
        if recipe.get("start"):
            self.make(recipe["start"])
            start = checkpoints.load_model(self.path(recipe["start"]), UNet)[0]
        else:
            torch.manual_seed(seed)
            augmentation = 9 if MECHANISMS[mechanism].augmented else 0
            start = UNet(data.channels, data.num_classes, **self.settings["network"], augmentation=augmentation)
        schedule = SCHEDULES[choose("schedule", recipe["schedule"], SCHEDULES)]()
        model = train_generator(
            start,
            data,
            schedule,
            mechanism,
            lr_schedule=warmup_cosine,
            seed=seed,
            checkpoint=self._training(name),
            save_every=60,
            title=name,
            **{key: recipe[key] for key in ("steps", "batch_size", "lr", "ema_decay", "objective", "label_dropout")},
        )
        cpu = time.process_time() - began
        facts = dict(objective=recipe["objective"], schedule=recipe["schedule"], T=len(schedule))
        checkpoints.save_model(self.path(name), model, half=True, **facts)
        if whole is self.whole:
            found = {"measured_with": self._measured_with(), "measures": self._measures(name, data, schedule, recipe)}
        else:  # no judge has seen balanced training images of it
            found, labels = {"measures": {}}, balanced_labels(PER_ROW * whole.num_classes, whole.num_classes)
            self._sheet(name, self._sample(name, whole, schedule, recipe, 1.0, labels), labels)
        return self._card(name, self._data(whole, data), recipe, (around, cpu), **found)

    def _sample(
        self, name: str, whole: ImageData, schedule: Schedule, recipe: dict, omega: float, labels: Tensor
    ) -> Tensor:
        """Images uint8 [N, C, H, W] from the stored weights, one for each of `labels`."""
        model = checkpoints.load_model(self.path(name), UNet, device())[0]
        return sample_to(
            self.folder / "samples" / f"{name}-omega{omega:g}-{fingerprint(model)[:8]}",
            model,
            schedule,
            labels,
            tuple(whole.train_images.shape[1:]),
            steps=self.settings["measures"]["sample_steps"],
            omega=omega,
            clip=1.0,
            objective=recipe["objective"],
            precision="auto",
            title=f"samples of {name}, guidance {omega:g}",
        )[0]

    def _sheet(self, name: str, images: Tensor, labels: Tensor) -> None:
        rows = torch.cat([images[labels == c][:PER_ROW] for c in labels.unique()])
        sheet = make_grid(rows / 255, nrow=PER_ROW, padding=2, pad_value=1)  # it makes three channels of one
        to_pil_image(sheet[: rows.shape[1]]).save(self.folder / f"{name}.png", optimize=True)

    def _measured_with(self) -> dict:
        return self.settings["measures"] | {
            "reference": f"balanced {self.reference} images",
            "judge": fingerprint(self.judge),
            "judge_accuracy_on_test_images": self.make("judge")["measures"]["accuracy_on_test_images"],
        }

    def _measures(self, name: str, data: ImageData, schedule: Schedule, recipe: dict) -> dict:
        """{guidance: {group: {measure: value}}} of samples from the stored weights.

        The sheet shows those of the first guidance. memorisation compares with the images it was trained on.
        """
        ask, whole, counts = self.settings["measures"], self.whole, self.tail.counts
        extract = encoder_extractor(self.judge, "judge")
        labels = balanced_labels(ask["samples"], whole.num_classes)
        everything = (extract(whole.train_images)[0], whole.train_labels)
        test = (extract(whole.test_images)[0], whole.test_labels)
        training, found = (extract(data.train_images)[0], data.train_labels), {}
        for omega in ask["omegas"]:
            images = self._sample(name, whole, schedule, recipe, omega, labels)
            if omega == ask["omegas"][0]:
                self._sheet(name, images, labels)
            features, probabilities = extract(images)
            rows = measure(
                extract,
                test if self.reference == "test" else everything,
                (features, probabilities, labels),
                counts,
                prd_runs=ask["prd_runs"],
            )
            right = label_accuracy(probabilities, labels, counts)
            near = group_memorisation((features, labels), training, test, counts)
            by_class = class_accuracy(probabilities, labels).tolist()
            for group, row in rows.items():
                row |= {"label_accuracy": right[group], "memorisation": near[group]}
            found[f"omega {omega:g}"] = {
                group: {key: round(value, 4) for key, value in row.items()} for group, row in rows.items()
            } | {"label_accuracy_by_class": [round(value, 1) for value in by_class]}
        return found


@resumable
def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status: 0 all finished, 2 refused, 130 stopped."""
    parser = argparse.ArgumentParser(prog="python -m experiments.pretrain", description=first_line(__doc__))
    parser.add_argument("names", nargs="*", help="what to train; --list tells the names")
    parser.add_argument("--list", action="store_true", help="list the names and what is finished")
    parser.add_argument("--config", type=Path, default=REPOSITORY / "config" / "pretrained.yaml")
    parser.add_argument("--folder", type=Path, default=Path("runs") / "pretrained")
    parser.add_argument("--reference", default="test", help="real images that are compared with: test or train")
    chosen = parser.parse_args(arguments)
    work = Pretraining(read_yaml(chosen.config), chosen.folder, chosen.reference)
    for name in chosen.names:
        choose("name", name, work.names)
    for name in work.names if chosen.list else ():
        print(name, "finished" if (chosen.folder / f"{name}.json").exists() else "")
    for name in chosen.names:
        card = work.make(name)
        print(f"{name}: {card['steps']:,} steps, {card['seconds']:,} s, {card['bytes']:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
