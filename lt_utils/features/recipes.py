"""Longer recipes of notebook 08, for full scale: what helps without generation, and the program that LDMLR published."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from lt_utils.data.augmentation import random_crop_flip, unit
from lt_utils.diffusion import ldmlr
from lt_utils.features import views
from lt_utils.features.augmentation import amounts_to_labels
from lt_utils.features.encoding import Encoded
from lt_utils.features.retraining import Retrained, averaged, fit_head, predict, recalibrate_batchnorm, retrain_head
from lt_utils.recognition.losses import label_shift


def helped(encoded: Encoded, sets: Mapping[str, views.Views], *, steps: int = 1500, seed: int = 0) -> dict[str, Tensor]:
    """Log-probabilities [N, C] of the test images by method: what helps without any generated feature, and label shift.

    A cosine head on strong views; one on weak, strong and mixed views with mixed features; "Ours", its average with label
    shift; each also " + flip": averaged over the test images and their mirror images.

    sets: the "weak", "strong" and "mixed" views of the training images. Raises CourseError if the encoder is not at hand.
    """
    everything = views.join(sets["weak"], sets["strong"], sets["mixed"])
    cosine = fit_head(sets["strong"], encoded, kind="cosine", steps=steps, seed=seed).head
    mixing = fit_head(everything, encoded, kind="cosine", mixup=0.5, steps=steps, seed=seed).head
    said = {}
    for extra, test in {"": [encoded.test], " + flip": [encoded.test, views.mirrored_test(encoded)]}.items():
        shifted = label_shift(predict(encoded.head, *test), encoded.counts)
        said[f"Label shift{extra}"] = shifted
        said[f"Cosine head, strong views{extra}"] = predict(cosine, *test)
        said[f"Cosine head, all views, mixup{extra}"] = predict(mixing, *test)
        said[f"Ours{extra}"] = averaged(shifted, predict(mixing, *test))
    return said


def new_statistics(encoded: Encoded, seed: int = 0) -> Encoded:
    """The same images through the same encoder, its batch-norm statistics estimated anew on unmixed training views.

    Training with mixup stores the statistics of mixed images. No label is used; `seed` decides order and crops.
    """
    images = encoded.images.train_images
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        parts = images[torch.randperm(len(images)).to(images.device)].split(256)
        batches = [unit(random_crop_flip(part, images.shape[-1] // 8)).to(encoded.train.device) for part in parts]
    return views.encode_with(recalibrate_batchnorm(encoded.encoder, batches), encoded)


def helped_each(
    encoded: Mapping[int, Encoded], look: Callable[[Encoded, str, int, str], views.Views], *, steps: int = 1500
) -> Iterator[tuple[int, str, Tensor]]:
    """(seed, method, log-probabilities) of `helped` for the encoder of each seed, as it is and with new statistics.

    look: (encoded, kind of views, seed, "" or "-again" with new statistics) -> views. Label shift alone, a baseline, is left
    out. Seeds that hold the same Encoded share the new statistics, too.
    """
    fresh: dict[int, Encoded] = {}
    for seed, here in encoded.items():
        first = next(k for k in encoded if encoded[k] is here)
        if first not in fresh:
            fresh[first] = new_statistics(here, first)
        for extra, eyes in {"": here, ", new statistics": fresh[first]}.items():
            sets = {kind: look(eyes, kind, seed, "-again" if extra else "") for kind in ("weak", "strong", "mixed")}
            for method, log_p in helped(eyes, sets, steps=steps, seed=seed).items():
                if method + extra != "Label shift":
                    yield seed, method + extra, log_p


def retrain_published(
    encoded: Encoded,
    amounts: Sequence[int],
    *,
    steps: int,
    epochs: int,
    seed: int = 0,
    checkpoint: str | Path | None = None,
) -> Retrained:
    """LDMLR as its authors published it: their features, diffusion and defects (diffusion/ldmlr.py), then its retraining.

    amounts: features to add to each class, [C]. steps: of the diffusion's training (theirs: 9,849 on CIFAR-10-LT).
    """
    defects = ldmlr.Defects.published()
    published = replace(encoded, train=ldmlr.extract(encoded.encoder, encoded.images.train_images, defects, seed=seed))
    generator = ldmlr.train_published(
        published.train,
        published.train_labels,
        published.num_classes,
        defects,
        steps=steps,
        seed=seed,
        checkpoint=checkpoint,
    )
    labels = amounts_to_labels(amounts, encoded.train.device)
    return retrain_head(published, generator.generate(labels, seed=seed), labels, epochs=epochs, seed=seed)
