"""AutoAugment with the policy found on CIFAR-10 (Cubuk et al. 2019, arXiv 1805.09501, table 7), for whole batches.

Each image draws one of 25 sub-policies: two operations, each with its probability and its strength. Images that drew the
same operation are transformed together, so a batch needs at most a few dozen calls and no loop over images.
"""

import math

import torch
from torch import Tensor

# Two operations each: name, probability, level 0..9 of its strength (of no meaning for those without a strength).
POLICY = (
    (("Invert", 0.1, 0), ("Contrast", 0.2, 6)),
    (("Rotate", 0.7, 2), ("TranslateX", 0.3, 9)),
    (("Sharpness", 0.8, 1), ("Sharpness", 0.9, 3)),
    (("ShearY", 0.5, 8), ("TranslateY", 0.7, 9)),
    (("AutoContrast", 0.5, 0), ("Equalize", 0.9, 0)),
    (("ShearY", 0.2, 7), ("Posterize", 0.3, 7)),
    (("Color", 0.4, 3), ("Brightness", 0.6, 7)),
    (("Sharpness", 0.3, 9), ("Brightness", 0.7, 9)),
    (("Equalize", 0.6, 0), ("Equalize", 0.5, 0)),
    (("Contrast", 0.6, 7), ("Sharpness", 0.6, 5)),
    (("Color", 0.7, 7), ("TranslateX", 0.5, 8)),
    (("Equalize", 0.3, 0), ("AutoContrast", 0.4, 0)),
    (("TranslateY", 0.4, 3), ("Sharpness", 0.2, 6)),
    (("Brightness", 0.9, 6), ("Color", 0.2, 8)),
    (("Solarize", 0.5, 2), ("Invert", 0.0, 0)),
    (("Equalize", 0.2, 0), ("AutoContrast", 0.6, 0)),
    (("Equalize", 0.2, 0), ("Equalize", 0.6, 0)),
    (("Color", 0.9, 9), ("Equalize", 0.6, 0)),
    (("AutoContrast", 0.8, 0), ("Solarize", 0.2, 8)),
    (("Brightness", 0.1, 3), ("Color", 0.7, 0)),
    (("Solarize", 0.4, 5), ("AutoContrast", 0.9, 0)),
    (("TranslateY", 0.9, 9), ("TranslateY", 0.7, 9)),
    (("AutoContrast", 0.9, 0), ("Solarize", 0.8, 3)),
    (("Equalize", 0.8, 0), ("Invert", 0.1, 0)),
    (("TranslateY", 0.7, 9), ("AutoContrast", 0.9, 0)),
)
# These work in two directions: the sign is drawn for each image.
SIGNED = {"ShearY", "TranslateX", "TranslateY", "Rotate", "Brightness", "Color", "Contrast", "Sharpness"}

_STEPS = sorted({(name, level) for pair in POLICY for name, _, level in pair})
_STEP = torch.tensor([[_STEPS.index((name, level)) for name, _, level in pair] for pair in POLICY])
_PROBABILITY = torch.tensor([[probability for _, probability, _ in pair] for pair in POLICY])
_SIGNED = torch.tensor([name in SIGNED for name, _ in _STEPS])


def operation(images: Tensor, name: str, level: int, sign: int = 1, fill: int = 128) -> Tensor:
    """One operation of the policy on uint8 images [B, C, H, W]; level 0..9, sign 1 or -1 where it has a direction.

    Pixels that come from outside get the grey value `fill`. Raises ValueError for an unknown name.
    """
    # Imported here: it takes as long to load as torch itself, and only this function needs it.
    from torchvision.transforms.v2 import functional as ops

    share = level / 9
    height, width = images.shape[-2:]
    adjust = {"Brightness": ops.adjust_brightness, "Color": ops.adjust_saturation}
    adjust |= {"Contrast": ops.adjust_contrast, "Sharpness": ops.adjust_sharpness}
    match name:
        case "ShearY":
            shear = [0.0, math.degrees(math.atan(sign * 0.3 * share))]
            return ops.affine(images, 0.0, [0, 0], 1.0, shear, fill=fill, center=[0, 0])
        case "TranslateX" | "TranslateY":
            along_x = name == "TranslateX"
            shift = int(sign * 150 / 331 * (width if along_x else height) * share)
            return ops.affine(images, 0.0, [shift, 0] if along_x else [0, shift], 1.0, [0.0, 0.0], fill=fill)
        case "Rotate":
            return ops.rotate(images, sign * 30.0 * share, fill=fill)
        case "Brightness" | "Color" | "Contrast" | "Sharpness":
            return adjust[name](images, 1 + sign * 0.9 * share)
        case "Posterize":
            return ops.posterize(images, 8 - round(4 * share))
        case "Solarize":
            return ops.solarize(images, 255 * (1 - share))
        case "AutoContrast":
            return ops.autocontrast(images)
        case "Equalize":
            return ops.equalize(images)
        case "Invert":
            return ops.invert(images)
    raise ValueError(f"AutoAugment's CIFAR-10 policy has no operation {name!r}.")


def auto_augment(images: Tensor, fill: int = 128) -> Tensor:
    """Each uint8 image [B, C, H, W] (C = 1 or 3) by a sub-policy of its own; uint8.

    What a shift or a turn uncovers is grey: the authors' program fills it with the mean colour of the data set.
    """
    # Drawn on the CPU, where the groups are formed, so that an accelerator never has to be waited for.
    chosen = torch.randint(len(POLICY), (len(images),))
    applied = torch.rand(len(images), 2) < _PROBABILITY[chosen]
    negative = torch.rand(len(images), 2) < 0.5
    for place in range(2):
        step = _STEP[chosen, place]
        key = 2 * step + (negative[:, place] & _SIGNED[step])
        images = _by_group(images, torch.where(applied[:, place], key, -1), fill)
    return images


def _by_group(images: Tensor, keys: Tensor, fill: int) -> Tensor:
    """Each image by the operation of its key, 2 x (number of the step) + (1 if negative), or as it is for -1."""
    order = keys.argsort(stable=True)
    found, sizes = keys[order].unique_consecutive(return_counts=True)
    order = order.to(images.device)
    groups = images[order].split(sizes.tolist())
    changed = [
        group if key < 0 else operation(group, *_STEPS[key // 2], sign=-1 if key % 2 else 1, fill=fill)
        for key, group in zip(found.tolist(), groups, strict=True)
    ]
    result = torch.empty_like(images)
    result[order] = torch.cat(changed)
    return result
