"""ResNet-10, the encoder that papers on ImageNet-LT train (Liu et al. 2019, arXiv 1904.05160): torchvision's parts.

`train_encoder` trains it on images in files, `encode_files` has its features.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import resnet

from data_prep.lists.image_files import ImageFiles
from experiments.imagenet_lt.stream import TestBatches, TrainingBatches, deaths_told, prefetched, train_on_files
from lt_utils.data.augmentation import unit
from lt_utils.errors import CourseError
from lt_utils.models.heads import WCDASHead, build_head
from lt_utils.models.resnet import hold_statistics
from lt_utils.training.devices import device
from lt_utils.training.loop import steps_per_epoch
from lt_utils.training.lr_schedules import cosine

# Of the training images of ImageNet-LT, in 0..1, as published with LiVT.
IMAGENET_LT_MEAN = (0.479672, 0.457713, 0.407721)
IMAGENET_LT_STD = (0.278976, 0.271203, 0.286062)


class ResNet10(resnet.ResNet):
    """One basic block in each of four stages of 64, 128, 256 and 512 channels, below a 7 x 7 stem and max-pooling.

    4,905,792 parameters and the head's; 5,418,792 with a linear head for 1,000 classes. It has the interface of
    `resnet.ResNet`: features, forward, config, dim. A WCDAS head starts from g = -1 (concentration 0.269), as its
    authors do for ImageNet-LT.

    Args:
        num_classes: number of classes C.
        head: "linear", "cosine" or "wcdas".
        mean, std: per channel, for images in 0..1; the network normalises its own input.

    Raises CourseError for an unknown head.
    """

    def __init__(
        self,
        num_classes: int,
        head: str = "linear",
        mean: tuple[float, ...] = IMAGENET_LT_MEAN,
        std: tuple[float, ...] = IMAGENET_LT_STD,
    ) -> None:
        super().__init__(resnet.BasicBlock, [1, 1, 1, 1])
        self.dim = self.fc.in_features
        del self.fc
        self.config = dict(num_classes=num_classes, head=head, mean=list(mean), std=list(std))
        hold_statistics(self, 3, mean, std)
        self.head = (
            WCDASHead(self.dim, num_classes, -1.0) if head == "wcdas" else build_head(head, self.dim, num_classes)
        )

    def features(self, images: Tensor) -> Tensor:
        """Features [B, 512], all >= 0, of images [B, 3, H, W] in 0..1. CourseError for uint8 images."""
        if not images.is_floating_point():
            raise CourseError("An encoder takes images in 0..1: pass uint8 images through lt_utils.data.unit.")
        x = (images - self.mean) / self.std
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return x.mean(dim=(2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, C] of images [B, 3, H, W] in 0..1."""
        return self.head(self.features(images))


def train_encoder(
    files: ImageFiles,
    *,
    head: str = "linear",
    epochs: int = 90,
    batch_size: int = 128,
    lr: float = 0.2,
    weight_decay: float = 5e-4,
    seed: int = 0,
    size: int = 224,
    workers: int | None = None,
    checkpoint: str | Path | None = None,
    title: str = "ResNet-10",
) -> ResNet10:
    """Train ResNet-10 with cross-entropy on the logits of its head: SGD, momentum 0.9, cosine rate; the last epoch.

    Goes on from `checkpoint` if that is there. Prints which share of the time the training waited for images. CourseError
    if the checkpoint is of other images (paths and labels), another size or head, if a worker dies, and as
    `loop.train` does.
    """
    torch.manual_seed(seed)
    model = ResNet10(files.num_classes, head).to(device(), memory_format=torch.channels_last)
    steps = epochs * steps_per_epoch(len(files), batch_size)
    options = dict(optimizer=torch.optim.SGD(model.parameters(), lr, momentum=0.9, weight_decay=weight_decay))
    options |= dict(lr_schedule=cosine, recipe=f"images {files.key}, size {size}, head {head}", checkpoint=checkpoint)

    def loss(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(model(unit(images)), labels)

    batches = TrainingBatches(files, steps, batch_size, seed, size)
    return train_on_files(model, loss, batches, workers=workers, title=title, **options)


@torch.no_grad()
def encode_files(model: ResNet10, files: ImageFiles, size: int = 224, workers: int | None = None) -> Tensor:
    """Features [N, 512] of all images in the order of their list, without augmentation, on the model's device."""
    where = next(model.parameters()).device
    batches = prefetched(TestBatches(files, size=size), workers=workers, pin=where.type == "cuda")
    model.eval()
    with deaths_told():
        return torch.cat([model.features(unit(images.to(where, non_blocking=True))) for images, _ in batches])
