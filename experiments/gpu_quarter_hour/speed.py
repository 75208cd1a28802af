"""Images per second of a training step: eager, compiled, as CUDA graphs, of several seeds as one network; and how long the device
itself works on one."""

import time
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

from lt_utils.data.augmentation import random_flip, to_signed, unit
from lt_utils.data.datasets import ImageData
from lt_utils.diffusion.class_balancing import class_balancing_loss
from lt_utils.diffusion.schedules import linear_schedule
from lt_utils.models.resnet import ResNet
from lt_utils.models.unet import published_unet
from lt_utils.models.vit import ViT
from lt_utils.recognition.encoders import encoder_loss
from lt_utils.recognition.together import Together, joint_loss
from lt_utils.training.devices import device, precision_for
from lt_utils.training.loop import compile_for_training, train

WARM_UP, MEASURED = 10, 4.0  # steps; seconds
SEEDS = 3  # as many as the jobs train


def resnet(data: ImageData, tiny: bool, head: str = "linear") -> tuple[nn.Module, Callable, int]:
    """LDMLR's: ResNet-32, mixup, batch 64."""
    depth, same = 8 if tiny else 32, dict(mean=(0.5,) * data.channels, std=(0.25,) * data.channels)
    return ResNet(data.num_classes, data.channels, depth, head=head, **same), encoder_loss("ce-mixup", data), 64


def wcdas(data: ImageData, tiny: bool) -> tuple[nn.Module, Callable, int]:
    """The first stage of WCDAS: ResNet-32 with its head, AutoAugment, batch 256."""
    return resnet(data, tiny, "wcdas")[0], encoder_loss("wcdas", data, augment="autoaugment"), 256


def unet(data: ImageData, tiny: bool) -> tuple[nn.Module, Callable, int]:
    """CBDM's: the U-Net of 35.9 million parameters, plain diffusion loss, batch 64."""
    schedule = linear_schedule()

    def loss(model: nn.Module, index: Tensor) -> Tensor:
        images = to_signed(random_flip(data.train_images[index]))
        return class_balancing_loss(model, schedule, images, data.train_labels[index]).total

    return published_unet(data.num_classes, "small" if tiny else "full", channels=data.channels), loss, 64


def vit(data: ImageData, tiny: bool) -> tuple[nn.Module, Callable, int]:
    """ViT-Ti with patches of 4 pixels, cross-entropy, batch 256."""
    size = dict(width=32, depth=2, heads=2) if tiny else dict(width=192, depth=12, heads=3)
    same = dict(
        channels=data.channels, size=data.size, patch=4, mean=(0.5,) * data.channels, std=(0.25,) * data.channels
    )

    def loss(model: nn.Module, index: Tensor) -> Tensor:
        return nn.functional.cross_entropy(model(unit(random_flip(data.train_images[index]))), data.train_labels[index])

    return ViT(data.num_classes, **size, **same), loss, 256


NETWORKS = {"resnet32": resnet, "unet": unet, "vit": vit, "wcdas": wcdas}


class Graphed(nn.Module):
    """A network whose forward and backward pass are replayed as CUDA graphs, captured at the first batch, without compiling."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.graph, self.config = model, None, model.config
        self.no_label = getattr(model, "no_label", 0)

    def forward(self, *inputs: Tensor) -> Tensor:
        """What the network gives; all batches must have the shape of the first."""
        if self.graph is None:
            torch.clear_autocast_cache()
            with torch.autocast("cuda", torch.bfloat16, enabled=precision_for(device()) == "bf16", cache_enabled=False):
                sample = tuple(one.detach().clone() for one in inputs)
                self.graph = torch.cuda.make_graphed_callables(self.model, sample, allow_unused_input=True)
        return self.graph(*inputs)


BEST = "compiled, CUDA graphs"  # the way of the jobs that train encoders
WAYS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "eager": lambda model: model,
    BEST: partial(compile_for_training, mode="reduce-overhead"),
    "CUDA graphs": Graphed,
    "compiled": compile_for_training,
}


def ways(network: str) -> list[tuple[int, str]]:
    """Seeds and way of each row of a network, in order of worth: first what decides how the jobs train their seeds."""
    graphs = device().type == "cuda"
    if network == "wcdas":
        return [(1, BEST), (SEEDS, BEST)] if graphs else [(1, "eager"), (SEEDS, "eager")]
    one = [(1, way) for way in (WAYS if graphs else ["eager"])]
    if network != "resnet32":
        return one
    return [*one[:2], (SEEDS, BEST), (SEEDS, "eager"), *one[2:]] if graphs else [*one, (SEEDS, "eager")]


def _wait() -> None:
    if device().type == "cuda":
        torch.cuda.synchronize()


def _device_work(steps: Iterator) -> dict[str, float]:
    """Kernels a step and the milliseconds that the device works on them, over five steps; {} where there is no CUDA."""
    if device().type != "cuda":
        return {}
    from torch.profiler import ProfilerActivity, profile

    try:
        with profile(activities=[ProfilerActivity.CUDA]) as seen:
            for _ in range(5):
                next(steps)
            _wait()
        found = [one for one in seen.key_averages() if one.device_type == torch.autograd.DeviceType.CUDA]
        time_us = sum(one.self_device_time_total for one in found)
    except Exception as error:  # the speed is measured by then, and stays
        return {"device ms a step": f"{type(error).__name__}: {error}"[:200]}
    return {"kernels a step": sum(one.count for one in found) / 5, "device ms a step": round(time_us / 5000, 3)}


def measure(network: str, way: str, data: ImageData, tiny: bool, seeds: int = 1, lasting: float = MEASURED) -> dict:
    """One row: images per second, milliseconds a step, seconds until the first steps were done (compiling).

    seeds: networks that are trained as one, whose images are summed. lasting: seconds; from, to: when that was, as Unix time.
    """
    torch.manual_seed(0)
    models, losses, batches = zip(*(NETWORKS[network](data, tiny) for _ in range(seeds)), strict=True)
    for one in models:
        one.to(device(), memory_format=torch.channels_last)
    batch = 8 if tiny else batches[0]
    n = len(data.train_labels) // batch * batch  # full batches only: a graph has one shape
    model = models[0] if seeds == 1 else Together(models)
    forward = WAYS[way](model)

    def alone(_: nn.Module, index: Tensor) -> Tensor:
        return losses[0](forward, index)

    loss = alone if seeds == 1 else joint_loss(losses, range(seeds), n, batch, forward)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9)  # the same for all, and cheap
    begin = time.perf_counter()
    steps = train(model, loss, n=n, steps=10**6, batch_size=batch, optimizer=optimizer)
    for _ in range(2 if tiny else WARM_UP):
        next(steps)
    _wait()
    ready, since = time.perf_counter(), time.time()
    done, last = 0, ready
    while done < 2 or last - ready < (0.05 if tiny else lasting):
        next(steps)
        done += 1
        if done % 20 == 0 or tiny:  # not at every step: that would wait for the device
            _wait()
            last = time.perf_counter()
    _wait()
    seconds = time.perf_counter() - ready
    row = {"network": network, "way": way, "seeds": seeds, "batch": batch}
    row |= {"images/s": round(done * batch * seeds / seconds, 1), "ms a step": round(1000 * seconds / done, 3)}
    row |= {"seconds before": round(ready - begin, 1), "from": round(since, 2), "to": round(since + seconds, 2)}
    row |= _device_work(steps)
    steps.close()
    return row


def rows(network: str, data: ImageData, tiny: bool) -> Iterator[dict]:
    """All rows so far, after each; a way that fails is a row with its error, and the next one follows."""
    data, found = data.to(device()), []
    todo = ways(network)
    for number, (seeds, way) in enumerate(todo, 1):
        try:
            found.append(measure(network, way, data, tiny, seeds))
        # Whatever a compiler or a capture may raise: the other ways are still to be measured.
        except Exception as error:
            told = f"{type(error).__name__}: {error}"[:500]
            found.append({"network": network, "way": way, "seeds": seeds, "error": told})
        print(found[-1], flush=True)
        yield {"rows": found, "complete": number == len(todo)}
