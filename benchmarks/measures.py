"""Seconds and memory of the measures of generated images: 10,000 against 10,000 features of 2048 numbers.

    python -m benchmarks.measures ours|torchmetrics distance|kernel|prd|neighbours [--samples 10000] [--dim 2048]

torchmetrics has the Fréchet and the kernel distance; it is given the features as they are. "kernel" is 100 subsets of 1,000,
"prd" 10 clusterings in 200 clusters, "neighbours" improved precision and recall with k = 5.
"""

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.measure import report
from course.command import first_line
from lt_utils.metrics.generation import distribution_scores, frechet_distance, kernel_distance
from lt_utils.metrics.neighbours import precision_recall

MEASURES = {
    "distance": ("Fréchet distance", frechet_distance),
    "kernel": ("Kernel distance, 100 subsets", kernel_distance),
    "prd": ("Precision-recall of distributions, 10 clusterings", distribution_scores),
    "neighbours": ("Improved precision and recall, k = 5", precision_recall),
}
IN_TORCHMETRICS = ("distance", "kernel")


class AsTheyAre(nn.Module):
    """An extractor for torchmetrics whose "images" are features [N, D] already."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.num_features = dim

    def forward(self, features: Tensor) -> Tensor:
        return features


def by_torchmetrics(name: str, samples: int, dim: int) -> Callable[[Tensor, Tensor], float]:
    """The Fréchet or the kernel distance of torchmetrics as a function of features; the import is not measured."""
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.kid import KernelInceptionDistance

    extractor = AsTheyAre(dim)
    if name == "distance":
        metric = FrechetInceptionDistance(feature=extractor).set_dtype(torch.float64)  # as its documentation advises
    else:
        metric = KernelInceptionDistance(feature=extractor, subset_size=min(1000, samples))

    def value(real: Tensor, generated: Tensor) -> float:
        metric.update(real, real=True)
        metric.update(generated, real=False)
        return metric.compute()

    return value


def main() -> None:
    parser = argparse.ArgumentParser(description=first_line(__doc__))
    parser.add_argument("side", choices=("ours", "torchmetrics"))
    parser.add_argument("measure", choices=tuple(MEASURES))
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--dim", type=int, default=2048)
    options = parser.parse_args()
    if options.side == "torchmetrics" and options.measure not in IN_TORCHMETRICS:
        parser.error(f"torchmetrics has no measure {options.measure}")
    torch.manual_seed(0)
    # Like the features of a network: positive, a few directions carrying most of the variance, generated ones shifted a little.
    mixing = torch.randn(64, options.dim) / 8
    real, generated = (
        (torch.randn(options.samples, 64) @ mixing + 0.3 * torch.randn(options.samples, options.dim) + shift).relu()
        for shift in (0.0, 0.1)
    )
    if options.side == "ours":
        function = MEASURES[options.measure][1]
    else:
        function = by_torchmetrics(options.measure, options.samples, options.dim)
    begun = time.perf_counter()
    found = function(real, generated)
    seconds = time.perf_counter() - begun
    report({"seconds": seconds, "value": float(found[0] if isinstance(found, tuple) else found)})


if __name__ == "__main__":
    main()
