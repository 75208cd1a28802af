"""The functions that notebook 09 writes inline give what the package's give."""

import ast

import torch
import torch.nn.functional as F
from torch.testing import assert_close

from lt_utils import diffusion, recognition
from lt_utils.features import statistics, translation
from lt_utils.files import REPOSITORY
from lt_utils.runs.parameters import read_notebook

CALLS = 10


def inline() -> dict:
    """The notebook's functions by name, without running anything else of it."""
    cells = read_notebook(REPOSITORY / "notebooks" / "09_feature_translation.ipynb")["cells"]
    trees = [ast.parse("".join(cell["source"])) for cell in cells if cell["cell_type"] == "code"]
    found = [node for tree in trees for node in tree.body if isinstance(node, ast.FunctionDef)]
    names = {
        "torch": torch,
        "F": F,
        "diffusion": diffusion,
        "schedule": diffusion.cosine_schedule(1000),
        "CALLS": CALLS,
    }
    exec(compile(ast.Module(found, []), "notebook 09", "exec"), names)
    return names


def test_the_lines_of_notebook_09_equal_the_package():
    lines, random = inline(), torch.Generator().manual_seed(0)
    labels = torch.tensor([0] * 60 + [1] * 20 + [2] * 10)
    train = torch.randn(90, 4, generator=random) * torch.tensor([1.0, 2.0, 0.5, 1.5]) + labels[:, None]
    S = statistics.class_covariances(train, labels, 3)

    ours = lines["matched_by_hand"](train[labels == 0], train[labels == 2], S[2])
    theirs, _ = translation.displaced(train, labels, [0, 0, 60], 0, match=True)
    assert torch.cdist(ours, theirs, compute_mode="donot_use_mm_for_euclid_dist").amin(1).max() < 1e-3

    W, nu = torch.randn(3, 4, generator=random), 0.5
    ours = lines["isda_by_hand"](train @ W.T, labels, W, S, nu)
    assert_close(ours, recognition.isda_loss(train @ W.T, labels, recognition.semantic_margins(W, S), nu))

    schedule, clean, rare = lines["schedule"], torch.ones(50, 2), torch.ones(50, dtype=torch.long)
    perfect = diffusion.GaussianDenoiser(torch.tensor([[0.0, 0.0], [4.0, -3.0]]), torch.eye(2), schedule)
    ours = lines["edited_by_hand"](perfect, clean, rare, 500, 7, objective="x0")
    theirs = diffusion.edited(perfect, schedule, clean, rare, 500, steps=CALLS, objective="x0", seed=7)
    assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
