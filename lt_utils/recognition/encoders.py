"""How the course trains encoders: losses and augmentation by name, and the papers' recipes.

Each function loads the finished network if its checkpoint is there and trains it otherwise, resuming where it was.
"""

import inspect
import math
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from lt_utils.data.augmentation import AUGMENTATIONS, unit
from lt_utils.data.datasets import ImageData
from lt_utils.errors import CourseError, choose
from lt_utils.hashing import fingerprint
from lt_utils.models.pretrained import load_pretrained, pretrained_card, pretrained_names
from lt_utils.models.resnet import ResNet, channel_statistics
from lt_utils.recognition.losses import Loss, build_loss, log_prior
from lt_utils.recognition.mixing import mixup, mixup_loss
from lt_utils.recognition.sampling import StepLoss, deferred, in_order, resampled_order
from lt_utils.training.devices import device
from lt_utils.training.launch import on_ranks
from lt_utils.training.loop import compile_for_training, steps_per_epoch, train_to_end
from lt_utils.training.lr_schedules import cosine, multistep


@dataclass(frozen=True)
class Method:
    """What a method of training changes; `loss` is a name in LOSSES, `settings` are the loss's own."""

    loss: str = "ce"
    settings: dict = field(default_factory=dict)
    head: str = "linear"
    prior: bool = False  # is the log prior added to the logits in training
    alpha: float = 0.0  # of mixup
    resampled: bool = False  # every class equally often
    late: tuple[str, dict] | None = None  # loss and settings from the share DEFERRED of the training on


NO_RECIPE = ("data", "checkpoint", "title", "compiled")  # arguments of train_encoder that do not decide what it reaches
DEFERRED = 0.8  # Cao et al. 2019: from epoch 160 of 200 on
# The cosines of LDAM come out of the head times 30 already, and so must its margins be.
LDAM_SETTINGS = dict(margin=15.0, scale=1.0)

# Label shift is not here: it corrects a trained network.
METHODS = {
    "ce": Method(),
    "ce-mixup": Method(alpha=0.5),
    "logit-adjusted": Method(prior=True),
    "wcdas": Method(head="wcdas"),
    "rs": Method(resampled=True),
    "rw": Method("cb-ce"),
    "drw": Method(late=("cb-ce", {})),
    "focal": Method("focal"),
    "ldam": Method("ldam", LDAM_SETTINGS, "cosine-30"),
    "ldam-drw": Method("ldam", LDAM_SETTINGS, "cosine-30", late=("ldam", LDAM_SETTINGS | dict(beta=0.9999))),
}

# Keywords of `train_encoder` at the size of the papers (a ResNet-32 of 0.46 million parameters).
RECIPES: dict[str, dict] = {
    # LDMLR's "CE", as its released checkpoints record it.
    "ce": dict(
        method="ce-mixup", depth=32, epochs=200, batch_size=64, lr=0.1, weight_decay=5e-4, lr_schedule=multistep
    ),
    # WCDAS, first stage; its second is `finetune_head(model, data, **HEAD_RECIPE)`.
    "wcdas": dict(
        method="wcdas",
        depth=32,
        epochs=700,
        batch_size=256,
        lr=0.2,
        weight_decay=1e-4,
        augment="autoaugment",
        nesterov=False,
    ),
    # A stronger single network. The highest published results of this size on CIFAR-LT share 400 epochs and AutoAugment
    # with Cutout (PaCo, NCL, ProCo, ConCutMix); the logit-adjusted loss and mixup are what this course knows to help
    # without a second view or a second network. Chosen from there beforehand, not tuned.
    "strong": dict(
        method="logit-adjusted",
        depth=32,
        epochs=400,
        batch_size=128,
        lr=0.1,
        weight_decay=5e-4,
        augment="autoaugment",
        alpha=0.5,
    ),
}


def mixing(method: str, alpha: float | None) -> float:
    """The mixup parameter of a method: `alpha` if given, else 0.5 for "ce-mixup" (LDMLR) and 0, no mixup, for others."""
    if alpha is not None and not 0 <= alpha < math.inf:
        raise CourseError(f"alpha, the strength of mixup, must be 0 (none) or above, not {alpha}.")
    usual = METHODS[choose("method", method, METHODS)].alpha
    return usual if alpha is None else alpha


def image_loss(
    loss: Loss,
    data: ImageData,
    pad: int = 4,
    augment: str = "weak",
    alpha: float = 0.0,
    shift: Tensor | None = None,
) -> StepLoss:
    """loss(model, index): `loss` on augmented device-resident images; alpha > 0 mixes them, and the loss likewise.

    augment: a view in AUGMENTATIONS; CourseError if unknown. shift [C]: added to the logits, once for both labels of a mixture.
    """
    view = AUGMENTATIONS[choose("augmentation", augment, AUGMENTATIONS)]

    def step_loss(model: nn.Module, index: Tensor) -> Tensor:
        images, labels = unit(view(data.train_images[index], pad)), data.train_labels[index]
        if alpha:
            images, partner, weight = mixup(images, alpha)
        logits = model(images) if shift is None else model(images) + shift
        return mixup_loss(logits, labels, partner, weight, loss) if alpha else loss(logits, labels)

    return step_loss


def encoder_loss(
    method: str,
    data: ImageData,
    pad: int = 4,
    augment: str = "weak",
    alpha: float | None = None,
    *,
    steps: int = 1,
    batch_size: int = 1,
    seed: int = 0,
) -> StepLoss:
    """loss(model, index) of an encoder method on device-resident data; CourseError lists the known methods.

    "ce": cross-entropy. "ce-mixup": the same on mixed images (LDMLR's "CE"). "logit-adjusted": the class prior inside
    the loss. "wcdas": cross-entropy on the logits of a WCDAS head. "rs": cross-entropy, every class drawn equally often. "rw":
    class-balanced weights; "drw": from 80 % of the training on. "focal". "ldam": margins, on a cosine head of scale 30;
    "ldam-drw": with the weights of "drw". `augment` names a view in AUGMENTATIONS; `alpha` > 0 mixes the images of any method,
    lambda ~ Beta(alpha, alpha), and its loss likewise; None leaves it to the method.

    steps, batch_size, seed: those of the training loop, for the methods that depend on the step: "rs", "drw", "ldam-drw".
    """
    alpha, rule, where = mixing(method, alpha), METHODS[method], data.train_labels.device
    shift = log_prior(data.counts, where) if rule.prior else None

    def of(name: str, settings: dict) -> StepLoss:
        return image_loss(build_loss(name, data.counts, where, **settings), data, pad, augment, alpha, shift)

    loss = of(rule.loss, rule.settings)
    if rule.late:
        loss = deferred(loss, of(*rule.late), round(DEFERRED * steps), seed)
    if rule.resampled:
        order = resampled_order(data.train_labels, steps * batch_size, seed=seed)
        loss = in_order(loss, order.view(steps, batch_size), seed)
    return loss


def build_encoder(
    data: ImageData,
    method: str = "ce",
    depth: int = 8,
    width: int = 16,
    seed: int = 0,
    num_classes: int | None = None,
) -> ResNet:
    """An untrained encoder for `data` on the accelerator (or CPU), its initial weights drawn with `seed`.

    num_classes: how many logits it has; by default one for each class of `data`, of which there must be two.
    Raises CourseError for an unknown method, and for data of fewer classes.
    """
    if num_classes is None and data.num_classes < 2:
        raise CourseError(
            f"A classifier needs at least two classes, and {data.name} has {data.num_classes}: give data of more classes."
        )
    head = METHODS[choose("method", method, METHODS)].head
    torch.manual_seed(seed)
    mean, std = channel_statistics(data.train_images)
    model = ResNet(num_classes or data.num_classes, data.channels, depth, width, head, mean, std)
    return model.to(device(), memory_format=torch.channels_last)


def compiled_encoder(model: nn.Module) -> nn.Module:
    """An encoder through torch.compile for one training, on a GPU as CUDA graphs: there the launches of a small network's
    kernels take longer than their work. Where several processes train it, the model as it is."""
    return compile_for_training(model, "reduce-overhead" if device().type == "cuda" else "default")


def start_from(model: nn.Module, start: nn.Module) -> None:
    """Copy all weights of `start` but those of its head into `model`, in place.

    Raises CourseError if the two are networks of another architecture.
    """
    given, own = ({k: v for k, v in net.state_dict().items() if not k.startswith("head.")} for net in (start, model))
    if {name: value.shape for name, value in given.items()} != {name: value.shape for name, value in own.items()}:
        raise CourseError(
            "The network given as start has another architecture than the encoder to train: give both the same depth, width "
            "and image channels."
        )
    model.load_state_dict(given, strict=False)


@on_ranks
def train_encoder(
    data: ImageData,
    method: str = "ce-mixup",
    *,
    epochs: int,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    depth: int = 8,
    width: int = 16,
    batch_size: int = 64,
    lr: float = 0.1,
    weight_decay: float = 5e-4,
    lr_schedule=cosine,
    augment: str = "weak",
    alpha: float | None = None,
    nesterov: bool = True,
    start: nn.Module | None = None,
    compiled: bool = False,
    title: str = "",
) -> ResNet:
    """Train an encoder by `method` for `epochs` with SGD (momentum 0.9); the last epoch, in evaluation mode.

    augment: "weak", "autoaugment" (with Cutout) or "strong". alpha: of mixup; None: 0.5 for "ce-mixup", else no mixup.
    start: a network whose weights, all but its head's, the training starts from. compiled: see
    `compiled_encoder`. RECIPES: the papers' settings.
    Raises CourseError for an unknown method or augmentation, and for a start of another architecture.
    """
    data = data.to(device())
    model = build_encoder(data, method, depth, width, seed)
    if start is not None:
        start_from(model, start)
    optimizer = torch.optim.SGD(model.parameters(), lr, momentum=0.9, weight_decay=weight_decay, nesterov=nesterov)
    n = len(data.train_labels)
    steps = epochs * steps_per_epoch(n, batch_size)
    recipe = f"{method}, augment {augment}, alpha {mixing(method, alpha):g}, nesterov {nesterov}, {data.key}"
    if start is not None:
        recipe += f", from {body_key(start)}"
    options = dict(steps=steps, batch_size=batch_size, seed=seed)
    loss = encoder_loss(method, data, data.size // 8, augment, alpha, **options)
    if compiled:
        forward = compiled_encoder(model)
    return train_to_end(
        model,
        (lambda _, index: loss(forward, index)) if compiled else loss,
        title=title or f"{method}, seed {seed}",
        n=n,
        optimizer=optimizer,
        lr_schedule=lr_schedule,
        checkpoint=checkpoint,
        recipe=recipe,
        **options,
    )


def body_key(model: nn.Module) -> str:
    """Twelve characters that change with any weight of a network outside its head, batch-norm statistics included."""
    return fingerprint(model, without="head")[:12]


def encoder_recipe(data: ImageData, method: str = "ce-mixup", **options) -> dict:
    """All that decides the weights that `train_encoder` would reach, its defaults included, as plain values for a card."""
    told = inspect.signature(train_encoder).bind(data, method, **options)
    told.apply_defaults()
    recipe = {name: value for name, value in told.arguments.items() if name not in NO_RECIPE}
    recipe |= {
        "alpha": mixing(method, recipe["alpha"]),
        "lr_schedule": recipe["lr_schedule"].__name__,
        "data": data.key,
    }
    start = recipe.pop("start")  # cards from before there was a start have none
    return recipe if start is None else recipe | {"start": body_key(start)}


def pretrained_encoder(data: ImageData, method: str = "ce-mixup", **options) -> tuple[ResNet, dict] | None:
    """The trained encoder, and its card, that has seen these data by exactly this recipe, seed included; None if there is none.

    Those of the course are looked through, then your own (models/pretrained.py).
    method, options: those of `train_encoder`.
    """
    wanted = encoder_recipe(data, method, **options)
    for name in pretrained_names(own=True):
        if pretrained_card(name).get("recipe") == wanted:
            return load_pretrained(name, device())
    return None


def train_judge(
    data: ImageData, *, epochs: int = 8, depth: int = 8, seed: int = 1000, checkpoint: str | Path | None = None
) -> ResNet:
    """An independent classifier, trained on the balanced training set: it judges which class a generated image shows.

    It is never trained on a long tail (of unequal classes the smaller ones are filled up by repeating their images), and its seed
    is none of the seeds that the notebooks compare.
    """
    return train_encoder(
        data.filled_up(max(data.counts)),
        "ce",
        epochs=epochs,
        seed=seed,
        checkpoint=checkpoint,
        depth=depth,
        batch_size=128,
        lr=0.2,
        title="judge",
    )


def judge_for(data: ImageData, *, epochs: int = 8, depth: int = 8, checkpoint: str | Path | None = None) -> ResNet:
    """The judge of a balanced data set: the one that comes with the course if that is its data, else trained here.

    epochs, depth and checkpoint serve the training alone (see train_judge).
    """
    if pretrained_card("judge").get("data", {}).get("key") == data.key:
        return load_pretrained("judge", device())[0]
    return train_judge(data, epochs=epochs, depth=depth, checkpoint=checkpoint)
