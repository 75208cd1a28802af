"""The golden run: four short trainings whose losses are stored. A change of the code that changes a number is seen here.

Equal to the last bit on the kind of processor that golden_run.json names (float32, one thread), elsewhere to TOLERANCE: other
processors round otherwise, and a training carries that on. To store new values, because numbers were meant to change:

    python tests/lt_utils/test_golden_run.py
"""

import json
import platform
import re
from pathlib import Path

import pytest
import torch

from lt_utils.data import datasets
from lt_utils.diffusion import feature_diffusion, image_diffusion
from lt_utils.diffusion.schedules import cosine_schedule
from lt_utils.features import retraining
from lt_utils.features.encoding import encode_data
from lt_utils.features.views import encode_views
from lt_utils.hashing import fingerprint
from lt_utils.recognition import encoders
from lt_utils.training import devices

STORED = Path(__file__).with_name("golden_run.json")
TOLERANCE = 0.05  # relative; AVX2 against AVX-512 differ by up to 0.01 after 50 steps
KEPT = 20  # losses of each training


def processor() -> str:
    """What decides how sums are rounded: the kind of processor, its instructions, and torch."""
    try:
        facts = re.findall(r"^(cpu family|model|model name)\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.M)[:3]
        name = ", ".join(f"{key} {value}" for key, value in facts)
    except OSError:
        name = platform.processor()
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}"


def golden_run(patch: pytest.MonkeyPatch) -> dict[str, dict]:
    """The fingerprint of each trained network, and KEPT of its losses."""
    patch.setattr(devices, "precision_for", lambda where: "fp32")
    losses, found = {}, {}

    def listen(name, module):
        train = module.train

        def noted(*arguments, **options):
            for step in train(*arguments, **options):
                losses[name] = step.losses
                yield step

        patch.setattr(module, "train", noted)

    def note(name, model):
        steps = torch.linspace(0, len(losses[name]) - 1, KEPT).round().long()
        found[name] = {"fingerprint": fingerprint(model), "losses": losses[name][steps].tolist()}

    for name, module in (
        ("encoder", encoders),
        ("image diffusion", image_diffusion),
        ("feature diffusion", feature_diffusion),
        ("head", retraining),
    ):
        listen(name, module)
    data = datasets.load().long_tailed(100)
    model = encoders.train_encoder(data, epochs=2)
    note("encoder", model)
    note("image diffusion", image_diffusion.train_image_diffusion(data, cosine_schedule(), steps=20, batch_size=16))
    encoded = encode_data(model, data)
    generator = feature_diffusion.train_feature_diffusion(encoded.train, encoded.train_labels, 10, steps=50)
    note("feature diffusion", generator.model)
    labels = torch.arange(10).repeat(5)
    views = encode_views(encoded, "weak", 2)
    fitted = retraining.fit_head(views, encoded, added=(generator.generate(labels, steps=10), labels), steps=50)
    note("head", fitted.head)
    return found


@pytest.fixture(scope="module")
def found():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(devices, "device", lambda: torch.device("cpu"))
        for module in (encoders, image_diffusion):
            patch.setattr(module, "device", lambda: torch.device("cpu"))
        yield golden_run(patch)
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", ["encoder", "image diffusion", "feature diffusion", "head"])
def test_the_four_trainings_are_those_that_are_stored(found, name):
    stored = json.loads(STORED.read_text(encoding="utf-8"))
    assert len(stored[name]["losses"]) == KEPT
    if processor() == stored["processor"]:
        assert found[name] == stored[name]
    assert found[name]["losses"] == pytest.approx(stored[name]["losses"], rel=TOLERANCE)


if __name__ == "__main__":
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        STORED.write_text(
            json.dumps({"processor": processor(), **golden_run(patch)}, indent=1) + "\n", encoding="utf-8"
        )
