"""LDMLR's stage 3: retraining the classifier on real and added features, and what the result scores.

`sources` makes the features to add; `refit` has the course's own way of fitting a head.
"""

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lt_utils.features import Encoded
from lt_utils.losses import label_shift
from lt_utils.metrics import accuracy, scores
from lt_utils.training import train

if TYPE_CHECKING:
    from lt_utils.refit import Fitted


@dataclass(frozen=True)
class Retrained:
    """A retrained head, and its test accuracy in percent after every epoch: plain and with label shift, [epochs]."""

    head: nn.Module
    plain: Tensor
    shifted: Tensor


def retrain_head(
    data: Encoded,
    added: Tensor,
    added_labels: Tensor,
    *,
    epochs: int = 400,
    batch: int = 1024,
    rate: float = 1e-3,
    decay: float = 1e-5,
    seed: int = 0,
) -> Retrained:
    """LDMLR's stage 3: train a copy of the encoder's head on the real and the added features, the encoder frozen.

    It starts from the trained weights; plain cross-entropy, Adam with a constant rate, no balancing. The head after the
    last epoch is the result. Test accuracies of every epoch are kept only to show what choosing among them would do.

    Args: data: the real features; added [M, D] with added_labels [M]: what a source made, M >= 0.
    """
    features = torch.cat([data.train, added])
    labels = torch.cat([data.train_labels, added_labels])
    head = copy.deepcopy(data.head).requires_grad_(True)
    a_epoch = -(-len(features) // batch)
    loop = train(
        head,
        lambda head, index: F.cross_entropy(head(features[index]), labels[index]),
        n=len(features),
        steps=epochs * a_epoch,
        batch=batch,
        optimizer=torch.optim.Adam(head.parameters(), rate, weight_decay=decay),
        seed=seed,
        precision="fp32",
    )
    plain, shifted = [], []
    for step in loop:
        if step.step % a_epoch == 0:
            with torch.no_grad():
                logits = head(data.test)
            plain.append(accuracy(logits, data.test_labels))
            shifted.append(accuracy(label_shift(logits, data.counts), data.test_labels))
    return Retrained(head.eval(), torch.tensor(plain), torch.tensor(shifted))


def test_scores(head: nn.Module, data: Encoded, many: int = 100, few: int = 20) -> dict[str, dict[str, float]]:
    """Scores of a head on the test features, {"plain": ..., "label shift": ...}, each as `metrics.scores` gives them.

    Label shift uses the original training counts, also after features were added, as LDMLR does.
    """
    with torch.no_grad():
        logits = head(data.test)
    both = {"plain": logits, "label shift": label_shift(logits, data.counts)}
    return {test: scores(values, data.test_labels, data.counts, many, few) for test, values in both.items()}


test_scores.__test__ = False  # a function to use, not one that pytest should collect


def result_rows(retrained: "Retrained | Fitted", encoded: Encoded, /, **columns) -> list[dict]:
    """Two rows for a record, tested plain and with label shift: the scores of the last epoch and, beside them, the
    accuracy of the best test epoch, "best_test_epoch" (the paper's protocol: chosen on the test set, for each test).

    retrained: what `retrain_head` returns, or `refit.fit_head` with watch > 0.
    """
    best = {"plain": max(retrained.plain), "label shift": max(retrained.shifted)}
    return [
        {**columns, "test": test, **values, "best_test_epoch": round(float(best[test]), 2)}
        for test, values in test_scores(retrained.head, encoded).items()
    ]
