"""The network behind FID, Inception Score and KID: Inception v3 (Szegedy et al. 2016) as TensorFlow trained it in 2015.

It is written so that the published file pt_inception-2015-12-05-6726825d.pth loads into it. It differs from torchvision's
Inception in what its pooling does: averages leave the padding out, and the last block takes a maximum instead.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FEATURES, CLASSES, PIXELS = 2048, 1008, 299


class Conv(nn.Module):
    """Convolution without bias, batch normalisation, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int | tuple[int, int], stride: int = 1, padding=0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True)


# Kernel and padding that keep the size of the image.
ONE, THREE, FIVE = (1, 0), (3, 1), (5, 2)
WIDE, TALL, WIDE3, TALL3 = ((1, 7), (0, 3)), ((7, 1), (3, 0)), ((1, 3), (0, 1)), ((3, 1), (1, 0))


class Mixed(nn.Module):
    """Branches side by side, their outputs concatenated; the names of the layers are those of the weight file.

    branches: for each a list of (name, outputs, (kernel, padding)) in a row, with a stride of 2 where a fourth entry says
    so. A list of names in place of the last layer's is a fork: each of them gets what came before.
    pool: what the pooling branch does: "average", "maximum" (both followed by a 1x1 convolution with `pooled` outputs),
    or "halve" (a maximum with stride 2, nothing after it).
    """

    def __init__(self, inputs: int, branches: list[list[tuple]], pool: str, pooled: int = 0) -> None:
        super().__init__()
        self.pool, self.rows = pool, []
        for branch in branches:
            now, row = inputs, []
            for name, outputs, (kernel, padding), *stride in branch:
                names = [name] if isinstance(name, str) else name
                shapes = [(kernel, padding)] if isinstance(name, str) else list(zip(kernel, padding, strict=True))
                for one, (size, around) in zip(names, shapes, strict=True):
                    self.add_module(one, Conv(now, outputs, size, stride[0] if stride else 1, around))
                row.append(names)
                now = outputs
            self.rows.append(row)
        if pooled:
            self.branch_pool = Conv(inputs, pooled, 1)

    def forward(self, x: Tensor) -> Tensor:
        outputs = []
        for row in self.rows:
            now = x
            for names in row:
                made = [self.get_submodule(name)(now) for name in names]
                now = made[0] if len(made) == 1 else torch.cat(made, 1)
            outputs.append(now)
        if self.pool == "halve":
            return torch.cat([*outputs, F.max_pool2d(x, 3, 2)], 1)
        if self.pool == "average":
            x = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
        else:
            x = F.max_pool2d(x, 3, 1, 1)
        return torch.cat([*outputs, self.branch_pool(x)], 1)


def _block_a(inputs: int, pooled: int) -> Mixed:
    five = [("branch5x5_1", 48, ONE), ("branch5x5_2", 64, FIVE)]
    three = [("branch3x3dbl_1", 64, ONE), ("branch3x3dbl_2", 96, THREE), ("branch3x3dbl_3", 96, THREE)]
    return Mixed(inputs, [[("branch1x1", 64, ONE)], five, three], "average", pooled)


def _block_b(inputs: int) -> Mixed:
    three = [("branch3x3dbl_1", 64, ONE), ("branch3x3dbl_2", 96, THREE), ("branch3x3dbl_3", 96, (3, 0), 2)]
    return Mixed(inputs, [[("branch3x3", 384, (3, 0), 2)], three], "halve")


def _block_c(inner: int) -> Mixed:
    seven = [("branch7x7_1", inner, ONE), ("branch7x7_2", inner, WIDE), ("branch7x7_3", 192, TALL)]
    turns = [(1, inner, ONE), (2, inner, TALL), (3, inner, WIDE), (4, inner, TALL), (5, 192, WIDE)]
    double = [(f"branch7x7dbl_{number}", outputs, shape) for number, outputs, shape in turns]
    return Mixed(768, [[("branch1x1", 192, ONE)], seven, double], "average", 192)


def _block_d() -> Mixed:
    three = [("branch3x3_1", 192, ONE), ("branch3x3_2", 320, (3, 0), 2)]
    seven = [("branch7x7x3_1", 192, ONE), ("branch7x7x3_2", 192, WIDE), ("branch7x7x3_3", 192, TALL)]
    return Mixed(768, [three, [*seven, ("branch7x7x3_4", 192, (3, 0), 2)]], "halve")


def _block_e(inputs: int, pool: str) -> Mixed:
    fork = tuple(zip(WIDE3, TALL3, strict=True))  # ((kernel, kernel), (padding, padding))
    three = [("branch3x3_1", 384, ONE), (["branch3x3_2a", "branch3x3_2b"], 384, fork)]
    double = [("branch3x3dbl_1", 448, ONE), ("branch3x3dbl_2", 384, THREE)]
    double += [(["branch3x3dbl_3a", "branch3x3dbl_3b"], 384, fork)]
    return Mixed(inputs, [[("branch1x1", 320, ONE)], three, double], pool, 192)


class Inception(nn.Module):
    """Inception v3 for FID: 2048 features and the probabilities of 1008 classes. Evaluation mode only.

    The published Inception Score leaves the bias of the last layer out of the probabilities, and so does this.
    """

    def __init__(self) -> None:
        super().__init__()
        layers = [
            ("Conv2d_1a_3x3", Conv(3, 32, 3, 2)),
            ("Conv2d_2a_3x3", Conv(32, 32, 3)),
            ("Conv2d_2b_3x3", Conv(32, 64, 3, padding=1)),
            ("pool1", nn.MaxPool2d(3, 2)),
            ("Conv2d_3b_1x1", Conv(64, 80, 1)),
            ("Conv2d_4a_3x3", Conv(80, 192, 3)),
            ("pool2", nn.MaxPool2d(3, 2)),
            ("Mixed_5b", _block_a(192, 32)),
            ("Mixed_5c", _block_a(256, 64)),
            ("Mixed_5d", _block_a(288, 64)),
            ("Mixed_6a", _block_b(288)),
            ("Mixed_6b", _block_c(128)),
            ("Mixed_6c", _block_c(160)),
            ("Mixed_6d", _block_c(160)),
            ("Mixed_6e", _block_c(192)),
            ("Mixed_7a", _block_d()),
            ("Mixed_7b", _block_e(1280, "average")),
            ("Mixed_7c", _block_e(2048, "maximum")),
        ]
        for name, layer in layers:
            self.add_module(name, layer)
        self.fc = nn.Linear(FEATURES, CLASSES)
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features [B, 2048] and probabilities [B, 1008] of images [B, 3, H, W] in 0..1, resized to 299 x 299."""
        x = F.interpolate(images, (PIXELS, PIXELS), mode="bilinear", align_corners=False)
        x = 2 * x - 1
        for layer in list(self.children())[:-1]:  # all but the last, fc
            x = layer(x)
        features = x.mean((2, 3))
        return features, F.linear(features, self.fc.weight).softmax(1)
