"""Encoders: CIFAR-style residual networks whose pooled output is the feature that the rest of the course works on."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lt_utils.data.augmentation import unit
from lt_utils.errors import CourseError
from lt_utils.models.heads import build_head
from lt_utils.training.ranks import each_part

# What the LDMLR encoders were trained with, in R, G, B order, for CIFAR-10 and CIFAR-100 alike.
CIFAR_MEAN = (125.3 / 255, 123.0 / 255, 113.9 / 255)
CIFAR_STD = (63.0 / 255, 62.1 / 255, 66.7 / 255)


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut, which has no parameters: option A of He et al. (2016, section 4.2).

    Where the shape changes it takes every second pixel and pads the new channels with zeros, half before, half after.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride, self.padding = stride, (outputs - inputs) // 2

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.bn2(self.conv2(out))
        if self.stride != 1 or self.padding:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.padding, self.padding))
        return F.relu(out.add_(x), inplace=True)


def hold_statistics(network: nn.Module, channels: int, mean: Sequence[float], std: Sequence[float]) -> None:
    """Give a network that normalises its own input `mean` and `std` [1, channels, 1, 1], which its state does not hold.

    CourseError unless both have a number for each channel.
    """
    if not len(mean) == len(std) == channels:
        raise CourseError(
            f"mean and std need one number per channel: got {len(mean)} and {len(std)} for {channels} channels."
        )
    for name, values in (("mean", mean), ("std", std)):
        network.register_buffer(name, torch.tensor(values).view(1, -1, 1, 1), persistent=False)


class ResNet(nn.Module):
    """CIFAR ResNet of depth 6n + 2 (He et al. 2016): a 3x3 stem, three stages of n blocks, global average pooling.

    With depth 32 and 3 input channels it has 464,154 parameters for 10 classes and 470,004 for 100 (linear head).

    Args:
        num_classes: number of classes C.
        channels: channels of the images, 1 or 3.
        depth: 8, 14, 20, 26, 32, ...
        width: channels of the first stage; the stages have width, 2 width and 4 width, and a feature has 4 width numbers.
        head: "linear", "cosine", "cosine-30" or "wcdas".
        mean, std: per channel, for images in 0..1; the network normalises its own input, so no caller can forget it.

    Raises CourseError for a depth that is not 6n + 2 or an unknown head.
    """

    def __init__(
        self,
        num_classes: int,
        channels: int = 3,
        depth: int = 32,
        width: int = 16,
        head: str = "linear",
        mean: tuple[float, ...] = CIFAR_MEAN,
        std: tuple[float, ...] = CIFAR_STD,
    ) -> None:
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise CourseError(f"A CIFAR ResNet has depth 6n + 2 (8, 14, 20, ..., 32), not {depth}.")
        hold_statistics(self, channels, mean, std)
        blocks = (depth - 2) // 6
        self.config = dict(
            num_classes=num_classes,
            channels=channels,
            depth=depth,
            width=width,
            head=head,
            mean=list(mean),
            std=list(std),
        )
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = self._stage(width, width, blocks, stride=1)
        self.layer2 = self._stage(width, 2 * width, blocks, stride=2)
        self.layer3 = self._stage(2 * width, 4 * width, blocks, stride=2)
        self.dim = 4 * width
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
        self.head = build_head(head, self.dim, num_classes)

    @staticmethod
    def _stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
        return nn.Sequential(Block(inputs, outputs, stride), *(Block(outputs, outputs, 1) for _ in range(blocks - 1)))

    def features(self, images: Tensor) -> Tensor:
        """Features [B, 4 width], all >= 0, of images [B, channels, H, W] in 0..1. CourseError for uint8 images."""
        if not images.is_floating_point():
            raise CourseError("An encoder takes images in 0..1: pass uint8 images through lt_utils.data.unit.")
        channels = self.config["channels"]
        if images.ndim != 4 or images.shape[1] != channels:
            raise CourseError(
                f"This encoder takes images [B, {channels}, H, W], not {list(images.shape)}; for RGB, grey ones become so by "
                "images.expand(-1, 3, -1, -1)."
            )
        x = (images - self.mean) / self.std
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        x = self.layer3(self.layer2(self.layer1(x)))
        return x.mean(dim=(2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, C] of images [B, channels, H, W] in 0..1."""
        return self.head(self.features(images))


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel, in 0..1, of uint8 images [N, channels, H, W], for ResNet."""
    # From the histogram of the 256 values: exact, and without a copy of all images in float64.
    counts = torch.stack([torch.bincount(channel.flatten(), minlength=256) for channel in images.unbind(1)])
    counts = counts.cpu().double()
    total = counts.sum(dim=1, keepdim=True)
    values = torch.arange(256, dtype=torch.float64) / 255
    mean = (counts * values).sum(dim=1, keepdim=True) / total
    variance = (counts * (values - mean) ** 2).sum(dim=1, keepdim=True) / (total - 1)
    return tuple(mean.flatten().tolist()), tuple(variance.sqrt().flatten().tolist())


@torch.no_grad()  # not inference_mode: its tensors could not be used to train a head or a denoiser
def encode(model: nn.Module, images: Tensor, batch_size: int = 500) -> tuple[Tensor, Tensor]:
    """Features [N, D] and logits [N, C] of uint8 images [N, channels, H, W], in evaluation mode and float32.

    The images may lie on another device than the model; features and logits lie on the model's.
    """
    if images.dtype != torch.uint8:
        raise CourseError(f"encode takes uint8 images, 0 .. 255, not {str(images.dtype).removeprefix('torch.')}.")
    was_training, where = model.training, next(model.parameters()).device
    model.eval()
    features = each_part(lambda part: model.features(unit(part.to(where))), images.split(batch_size))
    logits = [model.head(part) for part in features]
    model.train(was_training)
    return torch.cat(features), torch.cat(logits)
