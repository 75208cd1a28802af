"""LiVT's two stages (Xu et al. 2023, arXiv 2212.02015) on images in files: masked pretraining, then balanced fine-tuning.

`lt_utils.recognition.masked` has the same for images that fit into memory; networks, losses and rates are those of there.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recomputed

from data_prep.lists.image_files import ImageFiles
from experiments.imagenet_lt.stream import TestBatches, TrainingBatches, deaths_told, prefetched, train_on_files
from lt_utils.data.augmentation import unit
from lt_utils.hashing import fingerprint
from lt_utils.models.mae import MaskedAutoencoder, kept_patches
from lt_utils.models.vit import VIT_SIZES, ViT
from lt_utils.recognition.masked import adamw, labelled_loss, transfer
from lt_utils.training.devices import device
from lt_utils.training.loop import steps_per_epoch
from lt_utils.training.lr_schedules import warmup_cosine

SAVE_EVERY = 600.0  # seconds; ViT-B/16 with the two means of AdamW is a gigabyte


def in_parts(loss: Callable[[Tensor, Tensor], Tensor], images: Tensor, labels: Tensor, at_once: int) -> Tensor:
    """loss(images, labels), the mean over a batch, for `at_once` images at a time: only one part's activations are in memory.

    Each part is computed again in the backward pass, with the same random draws: a third more work. A batch that is not larger is
    one part. For losses that are means over the images; a part draws its masks or its mixture for itself.
    """
    if len(images) <= at_once:
        return loss(images, labels)
    parts = zip(images.split(at_once), labels.split(at_once), strict=True)
    shares = [len(part[0]) / len(images) * recomputed(loss, *part, use_reentrant=False) for part in parts]
    return torch.stack(shares).sum()


def encoder_config(network: dict, size: int) -> dict:
    """Arguments of `PatchEncoder` for a network {"size": one of VIT_SIZES, "patch", "mean", "std"} on images of `size` pixels."""
    form = {key: network[key] for key in ("patch", "mean", "std")}
    return dict(channels=3, size=size, class_token=True, **VIT_SIZES[network["size"]], **form)


def build_mae(network: dict, size: int, decoder: list[int]) -> MaskedAutoencoder:
    """The autoencoder of a network; decoder: its width, depth and heads. Raises CourseErrors of the network."""
    sizes = dict(zip(("decoder_width", "decoder_depth", "decoder_heads"), decoder, strict=True))
    return MaskedAutoencoder(**sizes, **encoder_config(network, size))


def build_classifier(network: dict, size: int, num_classes: int, drop_path: float) -> ViT:
    """The classifier of a network: the mean of the patches, normalised, and a linear head, as LiVT has it."""
    return ViT(num_classes, drop_path=drop_path, **encoder_config(network, size))


def pretrain(
    files: ImageFiles,
    network: dict,
    *,
    size: int,
    epochs: int,
    warmup: int,
    batch_size: int,
    lr: float,
    weight_decay: float,
    mask_ratio: float,
    decoder: list[int],
    at_once: int,
    seed: int = 0,
    workers: int | None = None,
    checkpoint: str | Path | None = None,
    title: str = "masked pretraining",
) -> MaskedAutoencoder:
    """Masked pretraining on random parts of 20 to 100 % of each image, mirrored or not: AdamW (0.9, 0.95), warm-up, cosine.

    Goes on from `checkpoint` if that is there. warmup: in epochs. at_once: of `in_parts`. CourseErrors: those of the network, of
    `kept_patches`, and of `train_on_files`.
    """
    torch.manual_seed(seed)
    model = build_mae(network, size, decoder).to(device())
    kept_patches(model.encoder.side**2, mask_ratio)  # refused before long work begins

    def loss(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        return in_parts(lambda part, _: model.loss(unit(part), mask_ratio), images, labels, at_once)

    steps = epochs * steps_per_epoch(len(files), batch_size)
    batches = TrainingBatches(files, steps, batch_size, seed, size, smallest=0.2, bicubic=True)
    return train_on_files(
        model,
        loss,
        batches,
        workers=workers,
        title=title,
        optimizer=adamw(model, lr, weight_decay, beta2=0.95),
        lr_schedule=partial(warmup_cosine, share=warmup / epochs),
        checkpoint=checkpoint,
        save_every=SAVE_EVERY,
        recipe=f"masked, ratio {mask_ratio}, images {files.key}, {model.config}, {at_once} at once",
    )


def finetune(
    files: ImageFiles,
    network: dict,
    source: MaskedAutoencoder | None,
    *,
    size: int,
    epochs: int,
    warmup: int,
    batch_size: int,
    lr: float,
    weight_decay: float,
    layer_decay: float,
    drop_path: float,
    loss: str,
    settings: dict,
    smoothing: float,
    mixed: bool,
    randaugment: bool,
    erasing: float,
    at_once: int,
    seed: int = 0,
    workers: int | None = None,
    checkpoint: str | Path | None = None,
    title: str = "fine-tuning",
) -> ViT:
    """Train a classifier, from the encoder of `source` or from scratch, with a loss of LOSSES and its settings, such as tau.

    On random parts of 8 to 100 % of each image, mirrored or not; randaugment, then erasing, smoothing and mixing of
    `masked.labelled_loss`. AdamW (0.9, 0.999) with `layer_decay`, `warmup` epochs, cosine. For images of another size than in
    pretraining, positions are resized. Goes on from `checkpoint` if that is there. CourseErrors: those of the network, of
    `transfer`, of the loss, and of `train_on_files`.
    """
    torch.manual_seed(seed)
    model = build_classifier(network, size, files.num_classes, drop_path).to(device())
    if source is not None:
        transfer(source, model)
    options = dict(mixed=mixed, smoothing=smoothing, erasing=erasing, **settings)
    of_part = labelled_loss(loss, files.counts, device(), **options)

    def of_images(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        return in_parts(lambda *part: of_part(model, *part), images, labels, at_once)

    steps, view = epochs * steps_per_epoch(len(files), batch_size), dict(bicubic=True, randaugment=randaugment)
    what = f"{loss}, {options}, {view}, images {files.key}, {model.config}, {at_once} at once, after {fingerprint(model)[:12]}"
    return train_on_files(
        model,
        of_images,
        TrainingBatches(files, steps, batch_size, seed, size, **view),
        workers=workers,
        title=title,
        optimizer=adamw(model, lr, weight_decay, layer_decay),
        lr_schedule=partial(warmup_cosine, share=warmup / epochs),
        checkpoint=checkpoint,
        save_every=SAVE_EVERY,
        recipe=what,
    )


@torch.no_grad()
def logits_of(model: ViT, files: ImageFiles, workers: int | None = None) -> Tensor:
    """Logits [N, C] of all images in the order of their list, on the CPU, as LiVT tests: up to 224 pixels the central part of an
    image whose shorter side is 8/7 of that, above 224 the whole of the shorter side."""
    where, size = next(model.parameters()).device, model.config["size"]
    view = dict(size=size, side=size if size > 224 else None, bicubic=True)
    batches = prefetched(TestBatches(files, **view), workers=workers, pin=where.type == "cuda")
    model.eval()
    with deaths_told():
        return torch.cat([model(unit(images.to(where, non_blocking=True))).cpu() for images, _ in batches])
