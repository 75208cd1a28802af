"""Two stages for a vision transformer on a long tail (LiVT, Xu et al. 2023, arXiv 2212.02015): masked pretraining without
labels on the long-tailed images themselves, then fine-tuning, there with a balanced loss.

Like the other trainings these load the finished network if its checkpoint is there, and go on from an unfinished one.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from lt_utils.data.augmentation import AUGMENTATIONS, random_crop_flip, random_erasing, unit
from lt_utils.data.datasets import ImageData
from lt_utils.data.longtail import group_indices
from lt_utils.errors import CourseError, choose
from lt_utils.hashing import fingerprint
from lt_utils.models.mae import MaskedAutoencoder, kept_patches, random_order
from lt_utils.models.resnet import channel_statistics
from lt_utils.models.vit import VIT_SIZES, ViT, resize_positions
from lt_utils.recognition.losses import as_shares, build_loss, label_shift, sigmoid_label_shift
from lt_utils.recognition.mixing import cutmix, mixup, soft_targets
from lt_utils.training.devices import device
from lt_utils.training.launch import on_ranks
from lt_utils.training.loop import train_to_end
from lt_utils.training.lr_schedules import warmup_cosine


def image_config(data: ImageData) -> dict:
    """The arguments of `PatchEncoder` that the data set decides: channels, size, mean and std of the training images."""
    mean, std = channel_statistics(data.train_images)
    return dict(channels=data.channels, size=data.size, mean=mean, std=std)


def build_vit(data: ImageData, seed: int = 0, patch: int = 7, **config) -> ViT:
    """An untrained transformer for `data` on the accelerator (or CPU), its weights drawn with `seed`; VIT_SIZES["nano"] unless
    `config`, the arguments of `ViT`, says otherwise."""
    torch.manual_seed(seed)
    return ViT(data.num_classes, **image_config(data), **VIT_SIZES["nano"] | dict(patch=patch) | config).to(device())


def build_mae(data: ImageData, seed: int = 0, patch: int = 7, **config) -> MaskedAutoencoder:
    """An untrained masked autoencoder for `data`, likewise; config: the arguments of `MaskedAutoencoder`."""
    torch.manual_seed(seed)
    return MaskedAutoencoder(**image_config(data), **VIT_SIZES["nano"] | dict(patch=patch) | config).to(device())


def masked_loss(data: ImageData, mask_ratio: float = 0.75, pad: int = 0) -> Callable[[nn.Module, Tensor], Tensor]:
    """loss(model, index) of masked pretraining on device-resident data: images are mirrored, with `pad` also shifted."""

    def loss(model: nn.Module, index: Tensor) -> Tensor:
        return model.loss(unit(random_crop_flip(data.train_images[index], pad)), mask_ratio)

    return loss


@torch.no_grad()
def group_masked_loss(
    model: MaskedAutoencoder, data: ImageData, mask_ratio: float = 0.75, seed: int = 0
) -> dict[str, float]:
    """The loss on hidden patches of test images by group of the long tail, four decimals: does the pretext have a tail?

    Which patches are hidden, `seed` decides, for all networks alike.
    """
    torch.manual_seed(seed)
    order = random_order(len(data.test_images), model.encoder.side**2)  # [images, patches], on the CPU
    where, found = next(model.parameters()).device, {}
    for group, classes in group_indices(data.counts).items():
        part = torch.isin(data.test_labels.cpu(), torch.tensor(classes)).nonzero()[:, 0]
        total = 0.0
        for index in part.split(500):
            images = unit(data.test_images[index.to(data.test_images.device)].to(where))
            total += len(index) * model.loss(images, mask_ratio, order[index].to(where)).item()
        found[group] = round(total / len(part), 4)
    return found


def parameter_groups(model: nn.Module, lr: float, weight_decay: float = 0.05, layer_decay: float = 1.0) -> list[dict]:
    """Groups for an optimiser: what lies deeper learns more slowly, and what is no matrix of weights does not decay.

    With L blocks, layer 0 is the patch projection, the positions and the class token, layers 1 .. L are the blocks, and L + 1 is
    all the rest: norm and head, or a decoder. A layer's rate is lr layer_decay^(L + 1 - layer) (Clark et al. 2020; Bao et al.
    2021). Biases, norms, positions, the class token and a decoder's token have no weight decay. Fixed parameters are left out.
    """
    last = len(model.encoder.blocks) + 1
    groups: dict[tuple[int, bool], dict] = {}
    for name, weight in model.named_parameters():
        if not weight.requires_grad:
            continue
        layer = last
        if name.startswith("encoder."):
            layer = int(name.split(".")[2]) + 1 if name.startswith("encoder.blocks.") else 0
        decays = name.endswith(".weight") and weight.ndim > 1
        start = dict(params=[], lr=lr * layer_decay ** (last - layer), weight_decay=weight_decay if decays else 0.0)
        groups.setdefault((layer, decays), start)["params"].append(weight)
    return list(groups.values())


def adamw(model: nn.Module, lr: float, weight_decay: float, layer_decay: float = 1.0, beta2: float = 0.999):
    """AdamW on the groups of `parameter_groups`, all of one step in one pass over the weights ("fused")."""
    return torch.optim.AdamW(
        parameter_groups(model, lr, weight_decay, layer_decay),
        betas=(0.9, beta2),
        fused=device().type in ("cpu", "cuda"),
    )


@on_ranks
def pretrain_masked(
    data: ImageData,
    *,
    steps: int,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    mask_ratio: float = 0.75,
    batch_size: int = 64,
    lr: float = 3e-3,
    weight_decay: float = 0.05,
    pad: int = 0,
    title: str = "",
    **config,
) -> MaskedAutoencoder:
    """Masked pretraining: `steps` of AdamW (0.9, 0.95), a tenth of them warm-up, then half a cosine; in evaluation mode.

    pad: shift images by up to so many pixels; 0 mirrors only. config: of `build_mae`. The original's rate is 1.5e-4 for each 256
    images of a batch. CourseErrors: those of the networks, of `kept_patches`, and of `train` for another checkpoint.
    """
    data = data.to(device())
    model = build_mae(data, seed, **config)
    kept_patches(model.encoder.side**2, mask_ratio)  # refused before long work begins
    return train_to_end(
        model,
        masked_loss(data, mask_ratio, pad),
        title=title or f"masked pretraining, seed {seed}",
        n=len(data.train_labels),
        steps=steps,
        batch_size=batch_size,
        optimizer=adamw(model, lr, weight_decay, beta2=0.95),
        lr_schedule=warmup_cosine,
        seed=seed,
        checkpoint=checkpoint,
        recipe=f"masked, ratio {mask_ratio}, pad {pad}, {data.key}",
    )


@torch.no_grad()
def transfer(source: MaskedAutoencoder | ViT, target: ViT) -> ViT:
    """Give `target` the patch encoder of `source`, and return it. Its norm and head stay as they are, the decoder stays behind.

    For images of another size, positions are resized (bicubic); a class token is taken over where both have one. CourseError
    for another patch size, another number of channels, or another width or depth.
    """
    theirs, ours = source.encoder, target.encoder
    if theirs.patch != ours.patch:
        raise CourseError(
            f"The pretrained encoder reads patches of {theirs.patch} pixels, this one of {ours.patch}: build it with "
            f"patch={theirs.patch}; images of another size are no obstacle, their positions are resized."
        )
    for name in ("channels", "width", "depth", "class_token"):
        if theirs.config[name] != ours.config[name]:
            raise CourseError(
                f"The pretrained encoder has {name}={theirs.config[name]}, this one {name}={ours.config[name]}: build both alike."
            )
    state = theirs.state_dict()
    state["positions"] = resize_positions(state["positions"], ours.side)
    ours.load_state_dict(state)
    return target


def short_warmup(k: int, n: int) -> float:
    """A learning-rate factor that rises over the first 5 % of the steps, then falls along half a cosine: as in LiVT's runs."""
    return warmup_cosine(k, n, share=0.05)


def mix(images: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Images mixed by mixup (alpha 0.8) or by cutmix (alpha 1), a coin for each batch, and their soft targets: LiVT's rule."""
    mixed, partner, share = mixup(images, 0.8) if torch.rand(()) < 0.5 else cutmix(images, 1.0)
    return mixed, soft_targets(labels, partner, share, num_classes)


def labelled_loss(
    loss: str,
    counts: Sequence[int],
    where: torch.device | str,
    *,
    mixed: bool = False,
    smoothing: float = 0.0,
    erasing: float = 0.0,
    **settings,
) -> Callable[[nn.Module, Tensor, Tensor], Tensor]:
    """loss(model, images uint8 [B, C, H, W], labels [B]) for a loss of LOSSES, on labels or, with `mixed` or `smoothing`, on
    soft targets.

    mixed: `mix` every batch. smoothing: share of a label that goes to all classes alike. erasing: probability of
    `random_erasing`. settings: of the loss, such as tau. CourseError for an unknown loss or setting.
    """
    criterion = build_loss(loss, counts, where, **settings)

    def of_images(model: nn.Module, images: Tensor, target: Tensor) -> Tensor:
        images = unit(random_erasing(images, erasing) if erasing else images)
        if mixed:
            images, target = mix(images, target, len(counts))
        logits = model(images)
        if smoothing:
            target = (1 - smoothing) * as_shares(logits, target) + smoothing / len(counts)
        return criterion(logits, target)

    return of_images


def finetune_loss(
    data: ImageData, loss: str = "bal-bce", augment: str = "weak", pad: int = 0, **options
) -> Callable[[nn.Module, Tensor], Tensor]:
    """loss(model, index) on device-resident data.

    augment: a view of AUGMENTATIONS, which shifts by up to `pad` pixels; "weak" with 0 mirrors only. options: of
    `labelled_loss`. CourseError for an unknown loss or view.
    """
    view = AUGMENTATIONS[choose("augmentation", augment, AUGMENTATIONS)]
    of_images = labelled_loss(loss, data.counts, data.train_labels.device, **options)
    return lambda model, index: of_images(model, view(data.train_images[index], pad), data.train_labels[index])


@on_ranks
def finetune(
    model: ViT,
    data: ImageData,
    loss: str = "bal-bce",
    *,
    steps: int,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    batch_size: int = 64,
    lr: float = 3e-3,
    weight_decay: float = 0.05,
    layer_decay: float = 1.0,
    augment: str = "weak",
    pad: int = 0,
    mixed: bool = False,
    smoothing: float = 0.0,
    erasing: float = 0.0,
    title: str = "",
) -> ViT:
    """Train the whole of `model` in place with a loss of LOSSES and AdamW (0.9, 0.999); it is returned in evaluation mode.

    layer_decay: factor on the rate from one block to the one before, 0.65 or 0.75 in LiVT after long pretraining. The other
    arguments: `finetune_loss`. CourseErrors: those of `finetune_loss`, and of `train` for another checkpoint or start.
    """
    data, before = data.to(device()), fingerprint(model)
    recipe = f"{loss}, {augment} {pad}, mixed {mixed}, smoothing {smoothing}, {data.key}, after {before[:12]}"
    return train_to_end(
        model,
        finetune_loss(data, loss, augment, pad, mixed=mixed, smoothing=smoothing, erasing=erasing),
        title=title or f"{loss}, seed {seed}",
        n=len(data.train_labels),
        steps=steps,
        batch_size=batch_size,
        optimizer=adamw(model, lr, weight_decay, layer_decay),
        lr_schedule=short_warmup,
        seed=seed,
        checkpoint=checkpoint,
        recipe=recipe + (f", erasing {erasing}" if erasing else ""),
    )


def balanced_scores(loss: str, logits: Tensor, counts: Sequence[int], tau: float = 1.0) -> Tensor:
    """Scores [B, C] whose argmax is Bayes' rule for equal classes if the network has learned p(c|x), by the loss it was trained
    with: "ce", "bal-ce", "bce" or "bal-bce"; tau: that of the balanced losses. CourseError for another loss."""
    read_out = {
        "ce": lambda: label_shift(logits, counts),
        "bal-ce": lambda: logits if tau == 1 else label_shift(logits, counts, 1 - tau),
        "bce": lambda: sigmoid_label_shift(logits, counts, tau=0.0),
        "bal-bce": lambda: sigmoid_label_shift(logits, counts, tau),
    }
    return read_out[choose("loss with a balanced read-out", loss, read_out)]()
