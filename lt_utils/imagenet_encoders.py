"""ResNet-10, the encoder that papers on ImageNet-LT train (Liu et al. 2019, arXiv 1904.05160): torchvision's parts."""

import torch
from torch import Tensor
from torchvision.models import resnet

from lt_utils.errors import CourseError
from lt_utils.heads import WCDASHead, build_head

# Of the training images of ImageNet-LT, in 0..1, as published with LiVT.
IMAGENET_LT_MEAN = (0.479672, 0.457713, 0.407721)
IMAGENET_LT_STD = (0.278976, 0.271203, 0.286062)


class ResNet10(resnet.ResNet):
    """One basic block in each of four stages of 64, 128, 256 and 512 channels, below a 7 x 7 stem and max-pooling.

    4,905,792 parameters and the head's; 5,418,792 with a linear head for 1,000 classes. It has the interface of
    `encoders.ResNet`: features, forward, config, dim. A WCDAS head starts from g = -1 (concentration 0.269), as its
    authors do for ImageNet-LT.

    Args:
        classes: number of classes C.
        head: "linear", "cosine" or "wcdas".
        mean, std: per channel, for images in 0..1; the network normalises its own input.

    Raises CourseError for an unknown head.
    """

    def __init__(
        self,
        classes: int,
        head: str = "linear",
        mean: tuple[float, ...] = IMAGENET_LT_MEAN,
        std: tuple[float, ...] = IMAGENET_LT_STD,
    ) -> None:
        super().__init__(resnet.BasicBlock, [1, 1, 1, 1])
        self.dim = self.fc.in_features
        del self.fc
        self.config = dict(classes=classes, head=head, mean=list(mean), std=list(std))
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)
        self.head = WCDASHead(self.dim, classes, -1.0) if head == "wcdas" else build_head(head, self.dim, classes)

    def features(self, images: Tensor) -> Tensor:
        """Features [B, 512], all >= 0, of images [B, 3, H, W] in 0..1. CourseError for uint8 images."""
        if not images.is_floating_point():
            raise CourseError("An encoder takes images in 0..1: pass uint8 images through lt_utils.augment.unit.")
        x = (images - self.mean) / self.std
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return x.mean(dim=(2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, C] of images [B, 3, H, W] in 0..1."""
        return self.head(self.features(images))
