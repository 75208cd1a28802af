"""Training images per second of a ResNet-32: this course's device-resident pipeline, and the usual one.

    python -m benchmarks.encoder ours|peer [64] [weak|autoaugment] [--seconds 10] [--workers 0] [--epochs 0]

"peer" is what most code bases do: a torchvision data set of PIL images, torchvision transforms on each image, a DataLoader,
the same network in its default memory layout and float32. Both use mixup and SGD. The data are CIFAR-sized: the
bundled garments, padded to 32 x 32 and repeated to three channels, because speed does not depend on what they show. The number is
the batch: 64 in LDMLR's recipe, 256 in that of WCDAS, which trains on "autoaugment": AutoAugment and Cutout, for the peer those
of torchvision. --workers: processes of the peer's DataLoader. --epochs: train so long and report the accuracy instead of
the speed.
"""

import argparse
import itertools
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from benchmarks.measure import rate, report
from course.command import first_line
from lt_utils.data.datasets import ImageData, load
from lt_utils.errors import choose
from lt_utils.metrics.recognition import accuracy
from lt_utils.models.resnet import CIFAR_MEAN, CIFAR_STD, ResNet, encode
from lt_utils.recognition.encoders import encoder_loss
from lt_utils.recognition.mixing import mixup, mixup_loss
from lt_utils.training.devices import device
from lt_utils.training.loop import steps_per_epoch, train
from lt_utils.training.lr_schedules import cosine

ENDLESS = 1_000_000
AUGMENT = ("weak", "autoaugment")


def cifar_sized(data: ImageData) -> ImageData:
    """The data with images [N, 3, 32, 32]."""
    bigger = [
        F.pad(images, (2, 2, 2, 2)).expand(-1, 3, -1, -1).contiguous()
        for images in (data.train_images, data.test_images)
    ]
    return ImageData(data.name, bigger[0], data.train_labels, bigger[1], data.test_labels, data.class_names)


def views(augment: str = "weak") -> transforms.Compose:
    """torchvision's transforms of one PIL image: crop and flip, or these with AutoAugment and a black square."""
    begin = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()]
    end = [transforms.ToTensor(), transforms.Normalize(CIFAR_MEAN, CIFAR_STD)]
    if choose("augmentation", augment, AUGMENT) == "weak":
        return transforms.Compose(begin + end)
    policy = transforms.AutoAugment(transforms.AutoAugmentPolicy.CIFAR10)
    # A square of a quarter of the area has half the height, as ours.
    square = transforms.RandomErasing(1.0, scale=(0.25, 0.25), ratio=(1.0, 1.0))
    return transforms.Compose([*begin, policy, *end, square])


class PerImage(Dataset):
    """A map-style data set: one PIL image at a time, transformed by torchvision."""

    def __init__(self, data: ImageData, augment: str = "weak") -> None:
        self.images = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in data.train_images]
        self.labels = data.train_labels.tolist()
        self.transform = views(augment)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(self.images[index]), self.labels[index]


def network() -> tuple[ResNet, torch.optim.SGD]:
    torch.manual_seed(0)
    model = ResNet(10).to(device())
    return model, torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)


def ours(data: ImageData, steps: int, batch: int, augment: str = "weak"):
    """Yield the number of images after each step of this course's loop (channels-last, bf16 where it is fast)."""
    model, optimizer = network()
    model.to(memory_format=torch.channels_last)
    data = data.to(device())
    loop = train(
        model,
        encoder_loss("ce-mixup", data, augment=augment),
        n=len(data.train_labels),
        steps=steps,
        batch_size=batch,
        optimizer=optimizer,
        lr_schedule=cosine,
    )
    for step in loop:
        yield step.images, model


def peer(data: ImageData, steps: int, batch: int, augment: str = "weak", workers: int = 0):
    """Yield the number of images after each step of the DataLoader loop (float32)."""
    model, optimizer = network()
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    loader = DataLoader(
        PerImage(data, augment), batch, shuffle=True, num_workers=workers, persistent_workers=workers > 0
    )
    # The data set normalises the images, so the network's own normalisation is passed by.
    model.mean.zero_()
    model.std.fill_(1)
    seen = 0
    batches = itertools.chain.from_iterable(iter(loader) for _ in itertools.count())
    for images, labels in itertools.islice(batches, steps):
        images, labels = images.to(device()), labels.to(device())
        mixed, partner, weight = mixup(images)
        loss = mixup_loss(model(mixed), labels, partner, weight)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        seen += len(labels)
        yield seen, model


def loop(side: str, batch: int | str = 64, augment: str = "weak", **how) -> Iterator[int]:
    """The endless training of one side, which counts images. how: for the peer, workers."""
    choose("side", side, ("ours", "peer"))
    done = (ours if side == "ours" else peer)(cifar_sized(load()), ENDLESS, int(batch), augment, **how)
    return (seen for seen, _ in done)


def trained_accuracy(side: str, epochs: int, batch: int = 64, **how) -> float:
    """Test accuracy in percent after so many epochs. how: augment, and for the peer workers."""
    data = cifar_sized(load())
    steps = epochs * steps_per_epoch(len(data.train_labels), batch)
    *_, (_, model) = (ours if side == "ours" else peer)(data, steps, batch, **how)
    # Trained on images that its data set normalised, the peer's network gets them as they are here.
    model.mean.copy_(torch.tensor(CIFAR_MEAN).view(1, -1, 1, 1))
    model.std.copy_(torch.tensor(CIFAR_STD).view(1, -1, 1, 1))
    return accuracy(encode(model, data.test_images)[1].cpu(), data.test_labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=first_line(__doc__))
    parser.add_argument("side", choices=("ours", "peer"))
    parser.add_argument("batch", type=int, nargs="?", default=64)
    parser.add_argument("augment", choices=AUGMENT, nargs="?", default="weak")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument(
        "--epochs", type=int, default=0, help="train so many epochs and report the accuracy instead of the speed"
    )
    options = parser.parse_args()
    how = {"augment": options.augment} | ({"workers": options.workers} if options.side == "peer" else {})
    if options.epochs:
        report({"accuracy": trained_accuracy(options.side, options.epochs, options.batch, **how)})
    else:
        report({"rate": rate(loop(options.side, options.batch, **how), options.seconds, warm_up=10)})


if __name__ == "__main__":
    main()
