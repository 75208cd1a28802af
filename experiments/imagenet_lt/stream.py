"""Batches of images decoded ahead of the training step that wants them, by worker processes.

    stream = Stream(TrainingBatches(files, steps, batch, seed))
    def loss(model, index):
        images, labels = stream(index)
        ...
    for step in train(model, loss, n=len(files), steps=steps, batch_size=batch, seed=seed, ...): ...

The batch of a step is a function of (seed, step) alone, the crop of every image included: it is the same with any
number of workers, and after a resume.
"""

import math
import re
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from data_prep.lists.image_files import ImageFiles, read_image
from lt_utils.data.augmentation import rand_augment
from lt_utils.errors import CourseError
from lt_utils.progress import track
from lt_utils.training.devices import cores
from lt_utils.training.loop import batch_of, images_after, step_now, step_seed, train


@dataclass(frozen=True)
class TrainingBatches(Dataset):
    """`batches[k]`: the images uint8 [<= batch, 3, size, size] and labels of step k of `loop.train`, made anew.

    Each image is a random part of `smallest` (8 %) to 100 % of its area, of ratio 3/4 to 4/3, resized to size x size (Szegedy
    et al. 2015, arXiv 1409.4842), and mirrored with probability 1/2; with `randaugment` it then goes through `rand_augment` by
    itself. It depends on (seed, k, place in the batch) alone. bicubic: how it is resized, else bilinear. n, steps, batch and
    seed of `train` must be the same. CourseError for a damaged file.
    """

    files: ImageFiles
    steps: int
    batch_size: int
    seed: int = 0
    size: int = 224
    smallest: float = 0.08
    bicubic: bool = False
    randaugment: bool = False

    def __len__(self) -> int:
        return self.steps

    def images(self, k: int) -> int:
        """How many images step k has."""
        n = len(self.files)
        return images_after(k + 1, n, self.batch_size) - images_after(k, n, self.batch_size)

    def __getitem__(self, k: int) -> tuple[Tensor, Tensor]:
        from torchvision.transforms import v2  # here: its import takes seconds, and lists do not need it

        part = v2.RandomResizedCrop(
            self.size, (self.smallest, 1.0), interpolation=_resizing(self.bicubic), antialias=True
        )
        view = v2.Compose([part, v2.RandomHorizontalFlip()])
        index, images = batch_of(k, len(self.files), self.batch_size, self.seed), []
        with torch.random.fork_rng(devices=[]):  # without workers this runs inside a training step
            for place, i in enumerate(index.tolist()):
                torch.default_generator.manual_seed((step_seed(self.seed, k) * self.batch_size + place) % 2**63)
                image = view(read_image(self.files.root / self.files.paths[i]))
                images.append(rand_augment(image[None])[0] if self.randaugment else image)
        return torch.stack(images), self.files.labels[index]


@dataclass(frozen=True)
class TestBatches(Dataset):
    """`batches[k]`: the k-th batch in the order of the list, as TrainingBatches, but each image seen once and whole:

    its shorter side resized to 8/7 size (256 for 224), or to `side`, then the central size x size. bicubic: how, else bilinear.
    """

    __test__ = False  # pytest: not a test

    files: ImageFiles
    batch_size: int = 128
    size: int = 224
    side: int | None = None
    bicubic: bool = False

    def __len__(self) -> int:
        return math.ceil(len(self.files) / self.batch_size)

    def __getitem__(self, k: int) -> tuple[Tensor, Tensor]:
        from torchvision.transforms import v2

        whole = v2.Resize(self.side or round(self.size * 8 / 7), interpolation=_resizing(self.bicubic), antialias=True)
        view = v2.Compose([whole, v2.CenterCrop(self.size)])
        part = slice(k * self.batch_size, (k + 1) * self.batch_size)
        images = [view(read_image(self.files.root / path)) for path in self.files.paths[part]]
        return torch.stack(images), self.files.labels[part]


def _resizing(bicubic: bool):
    from torchvision.transforms.v2 import InterpolationMode

    return InterpolationMode.BICUBIC if bicubic else InterpolationMode.BILINEAR


class _Told(Dataset):
    """Batches, or the sentence of the CourseError: raised in a worker, it would arrive wrapped in a traceback."""

    def __init__(self, batches: Dataset) -> None:
        self.batches = batches

    def __getitem__(self, k: int) -> tuple[Tensor, Tensor] | str:
        try:
            return self.batches[k]
        except CourseError as error:
            return str(error)


def _start_worker(number: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the training, which finishes its step and saves
    warnings.filterwarnings("ignore", module="PIL")  # of camera data that are corrupt in some photographs


@contextmanager
def deaths_told() -> Iterator[None]:
    """Around what uses workers: CourseError, one sentence, when one of them dies or has no shared memory.

    PyTorch raises RuntimeError wherever the training stands at that moment, not only where it waits for a batch.
    """
    try:
        yield
    except RuntimeError as error:
        if not re.search(r"DataLoader worker \(pid|shared memory", str(error)):
            raise
        raise CourseError(
            "A worker that decodes images died, mostly for lack of memory or shared memory: set workers: 0, or give the "
            "container more with --shm-size."
        ) from None


def prefetched(
    batches: TrainingBatches | TestBatches, start: int = 0, workers: int | None = None, pin: bool = False
) -> Iterator[tuple[Tensor, Tensor]]:
    """batches[start], batches[start + 1], ... in order, each decoded whole by one of the workers, two ahead for each.

    Args: workers: processes; 0 decodes here, when asked; default: one for each core. pin: in page-locked memory, from
    which a GPU copies while it computes. Raises CourseError, with the file's name, for a damaged image, and for a worker that
    died while a batch was waited for (`deaths_told` does so in between).
    """
    workers = cores() if workers is None else workers
    loader = DataLoader(
        _Told(batches),
        batch_size=None,  # an item is a batch already
        sampler=range(start, len(batches)),
        num_workers=workers,
        worker_init_fn=_start_worker,
        pin_memory=pin,
        generator=torch.Generator(),  # else it would draw from the generator of the training step that begins it
    )
    with deaths_told():
        items = iter(loader)
    while True:
        with deaths_told():  # without the yield: an error of who uses the batch is not ours
            item = next(items, None)
        if item is None:
            return
        if isinstance(item, str):
            raise CourseError(item)
        yield tuple(item)


class Stream:
    """Gives the loss of `loop.train` the batch of its step; a resumed training is followed to where it begins.

    `waited` is how long, in seconds, the training stood waiting for images after its first batch: near 0 when decoding
    keeps up.
    """

    def __init__(self, batches: TrainingBatches, workers: int | None = None) -> None:
        self.batches, self.workers, self.waited = batches, workers, 0.0
        self._next: int | None = None  # the step whose batch comes next
        self._items: Iterator[tuple[Tensor, Tensor]] = iter(())

    def __call__(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Images uint8 [B, 3, size, size] and labels [B] of the step that is running, on the device of `index`.

        Raises CourseError if that step is none of these batches', and as `prefetched` does.
        """
        k, where = step_now(self.batches.seed), index.device
        if not 0 <= k < len(self.batches) or len(index) != self.batches.images(k):
            raise CourseError("The batches are of another training: give both the same n, steps, batch and seed.")
        if k != self._next:
            self._items = prefetched(self.batches, k, self.workers, pin=where.type == "cuda")
        begun = time.monotonic()
        images, labels = next(self._items)
        self.waited += time.monotonic() - begun if k == self._next else 0.0
        self._next = k + 1
        return images.to(where, non_blocking=True), labels.to(where, non_blocking=True)


def train_on_files(
    model: nn.Module,
    of_images: Callable[[nn.Module, Tensor, Tensor], Tensor],
    batches: TrainingBatches,
    *,
    workers: int | None = None,
    title: str,
    **options,
) -> nn.Module:
    """`loop.train` on `batches` with the loss of_images(model, images uint8, labels); the model in evaluation mode.

    Prints which share of the time the training waited for images. options: of `train`. CourseErrors: its own, and if a worker
    dies.
    """
    stream = Stream(batches, workers)

    def loss(model: nn.Module, index: Tensor) -> Tensor:
        return of_images(model, *stream(index))

    facts = dict(n=len(batches.files), steps=batches.steps, batch_size=batches.batch_size, seed=batches.seed)
    with deaths_told():
        loop = list(track(train(model, loss, **facts, **options), title))
    if len(loop) > 1:
        share = stream.waited / (loop[-1].seconds - loop[0].seconds)
        print(f"{title}: it waited for images {share:.0%} of the time", flush=True)
    return model.eval()
