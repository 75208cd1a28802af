"""The second of two stages: a frozen encoder gets another head, trained (cRT, LWS) or computed (tau-norm, nearest mean)."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from lt_utils.data.datasets import ImageData
from lt_utils.errors import CourseError, choose
from lt_utils.hashing import fingerprint
from lt_utils.models.heads import build_head
from lt_utils.models.resnet import ResNet, encode
from lt_utils.recognition.encoders import body_key, image_loss
from lt_utils.recognition.losses import Loss, build_loss, check_counts
from lt_utils.recognition.sampling import StepLoss, class_aware_order, in_order
from lt_utils.training.devices import device
from lt_utils.training.loop import train_to_end
from lt_utils.training.lr_schedules import cosine

# Keywords of `finetune_head`: the second stage of WCDAS.
HEAD_RECIPE: dict = dict(epochs=30, batch_size=256, lr=0.005, weight_decay=1e-4, augment="autoaugment")


@contextmanager
def frozen_body(model: nn.Module) -> Iterator[nn.Module]:
    """A copy of `model` in evaluation mode of which only the head can be trained; at the end, proof that nothing else moved.

    Weights and batch-norm statistics are compared by their fingerprint. Raises CourseError if they have changed, and for a
    network without a head.
    """
    head = getattr(model, "head", None)
    if not isinstance(head, nn.Module) or not list(head.parameters()):
        raise CourseError(
            "This network has no head to train in a second stage: give a classifier, such as train_encoder's."
        )
    model, before = copy.deepcopy(model).to(device()).requires_grad_(False).eval(), body_key(model)
    model.head.requires_grad_(True)
    yield model
    if body_key(model) != before:
        raise CourseError(
            "The frozen part of the network has changed: keep it in evaluation mode and out of the optimiser."
        )
    model.requires_grad_(True)


def _linear_head(model: nn.Module, needed: str) -> nn.Linear:
    if not isinstance(model.head, nn.Linear):
        raise CourseError(
            f"{needed} needs a linear head, not a {type(model.head).__name__}: train the encoder with one."
        )
    return model.head


class ScaledHead(nn.Module):
    """s_c times logit c of a frozen linear head: learnable weight scaling (Kang et al. 2020)."""

    def __init__(self, head: nn.Linear) -> None:
        super().__init__()
        self.frozen, self.scale = head.requires_grad_(False), nn.Parameter(torch.ones_like(head.bias))

    def forward(self, features: Tensor) -> Tensor:
        return self.scale * self.frozen(features)

    @torch.no_grad()
    def folded(self) -> nn.Linear:
        """The linear head that gives the same logits."""
        self.frozen.weight *= self.scale[:, None]
        self.frozen.bias *= self.scale
        return self.frozen


def _feature_loss(loss: Loss, model: ResNet, data: ImageData) -> StepLoss:
    features, _ = encode(model, data.train_images)
    return lambda model, index: loss(model.head(features[index]), data.train_labels[index])


def _image_loss(loss: Loss, data: ImageData, augment: str) -> StepLoss:
    on_images = image_loss(loss, data, data.size // 8, augment)
    return lambda model, index: on_images(model.eval(), index)


STARTS = ("trained", "fresh", "scaled")


def finetune_head(
    model: ResNet,
    data: ImageData,
    *,
    epochs: int = 30,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    batch_size: int = 256,
    lr: float = 0.005,
    weight_decay: float = 1e-4,
    augment: str = "autoaugment",
    start: str = "trained",
    loss: str = "ce",
    balanced: bool = True,
    title: str = "",
) -> ResNet:
    """A copy of `model` whose head is trained on class-balanced batches, the rest frozen; by default WCDAS' second stage.

    SGD with momentum 0.9, a cosine from `lr` to 0, floor(N / batch_size) steps an epoch, 4 images of each class in turn.
    Batch normalisation is in evaluation mode; in the published program its statistics go on changing, although the network
    is called frozen.

    Args:
        lr: 0.005 is for a head that goes on; a fresh one needs more, 0.1 say.
        augment: a view in AUGMENTATIONS, or "none": the features of the plain images, encoded once, which is far faster.
        start: "trained", the head goes on; "fresh", a new one of the same kind, for the classes of `data` (cRT, Kang et al.
            2020, arXiv 1910.09217; on a self-supervised encoder a linear probe); "scaled", one factor on each logit of a linear
            head (LWS, same source), folded into its weights at the end.
        loss: a name in LOSSES. balanced: False draws the images as they are, for a loss that does the balancing.

    Raises CourseError for an unknown augmentation, start or loss, a network without a head or with one for another number of
    classes, a checkpoint of another `model` or data, and if anything but the head has moved.
    """
    data = data.to(device())
    before = fingerprint(model)  # the checkpoint holds the frozen part, too: it must not bring back another one
    choose("start", start, STARTS)
    in_epoch = max(1, len(data.train_labels) // batch_size)
    steps = epochs * in_epoch
    value = build_loss(loss, data.counts, device())
    with frozen_body(model) as model:
        if start == "fresh":
            torch.manual_seed(seed)
            model.head = build_head(model.config["head"], model.dim, data.num_classes).to(device())
            model.config = model.config | {"num_classes": data.num_classes}
        elif model.config["num_classes"] != data.num_classes:
            raise CourseError(
                f"The head has {model.config['num_classes']} classes, the data {data.num_classes}: choose start='fresh'."
            )
        if start == "scaled":
            model.head = ScaledHead(_linear_head(model, "LWS"))
        step_loss = _feature_loss(value, model, data) if augment == "none" else _image_loss(value, data, augment)
        if balanced:
            order = class_aware_order(data.train_labels, steps * batch_size, seed=seed).view(steps, batch_size)
            step_loss = in_order(step_loss, order, seed)
        changed = [f"{start} head"] * (start != "trained") + [loss] * (loss != "ce") + ["unbalanced"] * (not balanced)
        recipe = f"head alone, augment {augment}, drifting_bn False, {data.key}, after {before[:12]}"
        train_to_end(
            model,
            step_loss,
            title=title or f"head, seed {seed}",
            n=in_epoch * batch_size if balanced else len(data.train_labels),
            steps=steps,
            batch_size=batch_size,
            optimizer=torch.optim.SGD(
                [weight for weight in model.head.parameters() if weight.requires_grad],
                lr,
                momentum=0.9,
                weight_decay=weight_decay,
            ),
            lr_schedule=cosine,
            precision="fp32" if augment == "none" else "auto",
            seed=seed,
            checkpoint=checkpoint,
            recipe=", ".join([recipe, *changed]),
        )
        if start == "scaled":
            model.head = model.head.folded()
    return model


def tau_normalise(model: ResNet, tau: float = 1.0) -> ResNet:
    """A copy of `model` with w_c / |w_c|^tau and no bias in its linear head (tau-normalisation, Kang et al. 2020).

    Frequent classes have longer weights. tau = 0 leaves the weights, 1 makes them equally long; choose it on a hold-out.
    Raises CourseError for another head than a linear one.
    """
    with frozen_body(model) as model, torch.no_grad():
        head = _linear_head(model, "tau-normalisation")
        head.weight /= head.weight.norm(dim=1, keepdim=True) ** tau
        head.bias.zero_()
    return model


def nearest_mean(model: ResNet, data: ImageData, distance: str = "cosine") -> ResNet:
    """A copy of `model` whose head says which class has the nearest mean of its training features (NCM, Kang et al. 2020).

    distance: "cosine", or "euclidean" as the linear head f mu_c - |mu_c|^2 / 2 = (|f|^2 - |f - mu_c|^2) / 2. Raises
    CourseError for another distance, and for a class without training image.
    """
    choose("distance", distance, ("cosine", "euclidean"))
    check_counts(data.counts, "mean feature")
    data = data.to(device())
    with frozen_body(model) as model, torch.no_grad():
        features, _ = encode(model, data.train_images)
        means = torch.stack([features[data.train_labels == c].mean(0) for c in range(data.num_classes)])
        kind = "cosine" if distance == "cosine" else "linear"
        head = build_head(kind, model.dim, data.num_classes).to(device())
        head.weight.copy_(means)
        if kind == "linear":
            head.bias.copy_(-means.square().sum(1) / 2)
        model.head, model.config = head, model.config | {"head": kind, "num_classes": data.num_classes}
    return model
