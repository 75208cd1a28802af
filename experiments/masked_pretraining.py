"""Is masked pretraining insensitive to imbalance? python -m experiments.masked_pretraining [--keep]

Reads config/livt_reference.yaml: masked pretraining on a long-tailed set and on a balanced one of as many images, then
fine-tuning with four losses, from scratch and from both; the same from scratch for as long as both stages take, and a ResNet-8
for as long. All are trained on the long-tailed set and tested on the balanced test set; nothing is chosen there. A run that was
stopped goes on from its checkpoints in --folder. --keep stores the result for notebook 11, as
notebooks/reference/11_vision_transformers_bundled.json.
"""

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path

import torch

from course.command import first_line, resumable
from lt_utils.data.datasets import load
from lt_utils.files import REPOSITORY, read_yaml, write_json
from lt_utils.metrics.recognition import scores
from lt_utils.metrics.statistics import group_differences
from lt_utils.models.mae import MaskedAutoencoder
from lt_utils.models.resnet import encode
from lt_utils.recognition.encoders import train_encoder
from lt_utils.recognition.masked import (
    balanced_scores,
    build_vit,
    finetune,
    group_masked_loss,
    pretrain_masked,
    transfer,
)
from lt_utils.runs.provenance import surroundings
from lt_utils.training import checkpoints
from lt_utils.viz.tables import REFERENCES

NAME = "11_vision_transformers_bundled"
SCRATCH = "scratch"


class Experiment:
    """What the settings ask for; checkpoints lie in `folder`."""

    def __init__(self, settings: dict, folder: Path) -> None:
        self.settings, self.folder = settings, folder
        whole = load(settings["data"])
        self.data = whole.long_tailed(settings["imbalance"])
        balanced = whole.long_tailed(counts=[settings["balanced"]] * whole.num_classes)
        self.sets = {"LT": self.data, "balanced": balanced}
        self.right: dict[
            tuple, list[torch.Tensor]
        ] = {}  # (start, loss, steps, read-out): for each seed what it gets right

    def file(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"

    def pretrained(self, start: str, seed: int) -> MaskedAutoencoder:
        name = f"mae-{start}-seed{seed}"
        given = self.settings["pretraining"]
        return pretrain_masked(self.sets[start], **given, seed=seed, checkpoint=self.file(name), title=name)

    def rows_of(self, method: dict, logits: torch.Tensor, loss: str, name: str) -> list[dict]:
        """A row for each read-out, the argmax of the logits and Bayes' rule for equal classes."""
        tensors, facts = checkpoints.load(self.file(name))
        told = {"training loss": round(tensors["losses"][-100:].mean().item(), 3), "seconds": round(facts["seconds"])}
        logits, labels, counts = logits.cpu(), self.data.test_labels, self.data.counts
        outs = {"argmax": logits, "exact": balanced_scores(loss, logits, counts)}
        for out, z in outs.items():
            key = (method["method"], method["start"], method["steps"], out)
            self.right.setdefault(key, []).append(z.argmax(1) == labels)
        return [method | {"read-out": out} | scores(z, labels, counts) | told for out, z in outs.items()]

    def classifier(self, start: str, loss: str, seed: int, steps: int) -> list[dict]:
        """Fine-tune one network and measure it."""
        model = build_vit(self.data, seed, self.settings["pretraining"]["patch"])
        if start != SCRATCH:
            transfer(self.pretrained(start, seed), model)
        name, given = f"{start}-{loss}-{steps}-seed{seed}", self.settings["finetuning"] | {"steps": steps}
        finetune(model, self.data, loss, **given, seed=seed, checkpoint=self.file(name), title=name)
        what = {"method": f"ViT, {loss}", "start": start, "loss": loss, "steps": steps, "seed": seed}
        return self.rows_of(what, encode(model, self.data.test_images)[1], loss, name)

    def resnet(self, seed: int) -> list[dict]:
        name, epochs = f"resnet-seed{seed}", self.settings["resnet"]["epochs"]
        model = train_encoder(self.data, "ce", epochs=epochs, seed=seed, checkpoint=self.file(name), title=name)
        what = {"method": "ResNet-8, ce", "start": SCRATCH, "loss": "ce", "steps": epochs, "seed": seed}
        return self.rows_of(what, encode(model, self.data.test_images)[1], "ce", name)

    def differences(self) -> list[dict]:
        """Paired differences in points, for all classes and by group, with both errors: over seeds, and over test images."""
        steps, loss = self.settings["finetuning"]["steps"], self.settings["equal"]["loss"]
        best, longer = (f"ViT, {loss}", "LT", steps, "exact"), self.settings["equal"]["steps"]
        pairs = {f"{loss}, LT: exact - argmax": (best, (*best[:3], "argmax"))}
        for name in self.settings["losses"]:
            scratch, tail, even = ((f"ViT, {name}", start, steps, "exact") for start in (SCRATCH, *self.sets))
            pairs |= {f"{name}: LT - scratch": (tail, scratch), f"{name}: balanced - LT": (even, tail)}
        if "bal-ce" in self.settings["losses"] and loss != "bal-ce":
            for start in (SCRATCH, *self.sets):
                pairs[f"{loss} - bal-ce, {start}"] = tuple(
                    (f"ViT, {name}", start, steps, "exact") for name in (loss, "bal-ce")
                )
        pairs[f"{loss}: LT - scratch for as long"] = (best, (best[0], SCRATCH, longer, "exact"))
        resnet = ("ResNet-8, ce", SCRATCH, self.settings["resnet"]["epochs"], "exact")
        pairs[f"{loss}: LT - ResNet-8 for as long"] = (best, resnet)
        return group_differences(self.right, pairs, self.data.test_labels, self.data.counts)

    def result(self) -> dict:
        """All of it, seed by seed; what is finished is read from its checkpoint."""
        ask, rows, pretraining = self.settings, [], []
        for seed in ask["seeds"]:
            for start in (SCRATCH, *self.sets):
                for loss in ask["losses"]:
                    rows += self.classifier(start, loss, seed, ask["finetuning"]["steps"])
        for seed in ask["seeds"]:
            rows += self.classifier(SCRATCH, ask["equal"]["loss"], seed, ask["equal"]["steps"])
        for seed in ask["seeds"]:
            rows += self.resnet(seed)
        for seed in ask["seeds"]:
            for start in self.sets:
                loss = group_masked_loss(self.pretrained(start, seed), self.data, ask["pretraining"]["mask_ratio"])
                pretraining.append({"start": start, "seed": seed} | loss)
        seconds = sum(checkpoints.load(path)[1]["seconds"] for path in self.folder.glob("*.safetensors"))
        done = {"seconds": round(seconds), "finished": datetime.now(UTC).isoformat(timespec="seconds")}
        title = "Masked pretraining and four losses, Fashion-MNIST-LT (IF 100), three seeds"
        note = "Seconds are those of the clock, beside other work, summed over all trainings."
        content = {"rows": rows, "paired": self.differences(), "masked loss": pretraining, "note": note}
        return {"title": title, "parameters": ask, **surroundings(), **done, **content}


@resumable
def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status: 0 finished, 2 refused, 130 stopped."""
    parser = argparse.ArgumentParser(prog="python -m experiments.masked_pretraining", description=first_line(__doc__))
    parser.add_argument("--config", type=Path, default=REPOSITORY / "config" / "livt_reference.yaml")
    parser.add_argument("--folder", type=Path, default=Path("runs") / "masked_pretraining")
    parser.add_argument("--keep", action="store_true", help="store the result as the reference of notebook 11")
    chosen = parser.parse_args(arguments)
    result = Experiment(read_yaml(chosen.config), chosen.folder).result()
    target = REFERENCES if chosen.keep else chosen.folder
    write_json(target / f"{NAME}.json", result)
    print(f"{len(result['rows'])} rows written to {NAME}.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
