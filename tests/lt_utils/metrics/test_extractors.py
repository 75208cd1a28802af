"""Extractors: the original Inception through its real loading path, encoders of the course, and what measures are called."""

import hashlib
from types import SimpleNamespace

import pytest
import torch
import torchvision

from lt_utils.errors import CourseError
from lt_utils.metrics import extractors
from lt_utils.metrics.extractors import INCEPTION_SHA256, encoder_extractor, inception_extractor
from lt_utils.models.inception import Inception
from lt_utils.models.resnet import ResNet


@pytest.fixture(scope="module")
def peer():
    """torchvision's Inception with the class count of 2015 and random weights that keep signals alive."""
    torch.manual_seed(0)
    model = torchvision.models.Inception3(num_classes=1008, aux_logits=False, init_weights=False).eval()
    for name, value in model.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 1.5)
        elif name.endswith(("running_mean", "bias")):
            value.normal_(std=0.1)
        elif value.ndim == 4:
            torch.nn.init.kaiming_normal_(value)
    return model


@pytest.fixture(scope="module")
def weights(peer, tmp_path_factory):
    """A file like the public one: names and shapes of the real network, random weights, no batch counters. And its SHA-256."""
    path = tmp_path_factory.mktemp("weights") / "pt_inception-random.pth"
    torch.save({name: value for name, value in peer.state_dict().items() if "num_batches" not in name}, path)
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_inception_has_the_entries_of_the_public_file(peer):
    ours, theirs = Inception().state_dict(), peer.state_dict()
    assert {name: value.shape for name, value in ours.items()} == {name: value.shape for name, value in theirs.items()}
    assert (
        sum(value.numel() for name, value in ours.items() if name.endswith(("weight", "bias")))
        == 23_834_568 + 8 * 2_049
    )  # of 1000 classes, and 8 more


def test_features_and_probabilities_against_torchvision_with_the_pooling_of_2015(peer, weights, monkeypatch):
    """torchvision's own layers, their two differences patched: averages without padding, a maximum in the last block."""
    path, digest = weights
    torch.manual_seed(0)
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    features, probabilities = inception_extractor(path, digest)(images)
    module = torchvision.models.inception
    functions = {name: getattr(torch.nn.functional, name) for name in ("relu", "max_pool2d", "adaptive_avg_pool2d")}
    plain = torch.nn.functional.avg_pool2d

    def average(x, **how):
        if x.shape[1] == 2048:
            return torch.nn.functional.max_pool2d(x, **how)
        return plain(x, **how, count_include_pad=False)

    monkeypatch.setattr(module, "F", SimpleNamespace(avg_pool2d=average, **functions))
    found = {}
    peer.avgpool.register_forward_hook(lambda _, __, output: found.update(features=output.flatten(1)))
    resized = torch.nn.functional.interpolate(images.float() / 255, (299, 299), mode="bilinear", align_corners=False)
    with torch.no_grad():
        logits = peer(resized * 2 - 1)
    assert features.shape == (2, 2048) and (features[0] - features[1]).abs().max() > 0.01
    assert torch.allclose(features, found["features"], rtol=1e-3, atol=1e-4 * float(features.abs().max()))
    assert torch.allclose(probabilities, (logits - peer.fc.bias).softmax(1), rtol=1e-2, atol=1e-6)


def test_the_real_loading_path_refuses_any_other_file(weights, tmp_path):
    path, digest = weights
    with pytest.raises(CourseError, match=f"starts with {digest[:8]}, not 6726825d"):
        inception_extractor(path)
    with pytest.raises(CourseError, match="pytorch-fid"):
        inception_extractor(tmp_path / "none.pth")
    junk = tmp_path / "junk.pth"
    junk.write_bytes(b"not a checkpoint")
    with pytest.raises(CourseError, match="cannot be read as a weight file"):
        inception_extractor(junk, hashlib.sha256(junk.read_bytes()).hexdigest())
    torch.save({"fc.weight": torch.zeros(1000, 2048)}, junk)
    with pytest.raises(CourseError, match="of another architecture"):
        inception_extractor(junk, hashlib.sha256(junk.read_bytes()).hexdigest())


def test_code_in_a_weight_file_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (exec, ("raise SystemExit('ran')",))

    path = tmp_path / "evil.pth"
    torch.save({"fc.weight": Evil()}, path)
    with pytest.raises(CourseError, match="cannot be read"):
        inception_extractor(path, hashlib.sha256(path.read_bytes()).hexdigest())


def test_fid_is_and_kid_are_names_of_the_original_alone(weights, monkeypatch):
    path, digest = weights
    other = inception_extractor(path, digest)
    assert not other.original and other.metric("distance") == f"fd[inception-tf2015@{digest[:8]}]"
    monkeypatch.setattr(extractors, "INCEPTION_SHA256", digest)  # as if it were the original
    kinds = ("distance", "kernel", "score", "f8", "f1/8", "precision", "recall")
    assert [other.metric(kind) for kind in kinds] == ["fid", "kid", "is", "f8", "f1/8", "precision_k5", "recall_k5"]
    assert INCEPTION_SHA256.startswith("6726825d") and len(INCEPTION_SHA256) == 64
    assert other.record == {
        "name": "inception-tf2015",
        "sha256": digest,
        "resize": "bilinear to 299 x 299, no antialias",
        "input": "-1..1",
        "dimension": 2048,
        "channels": 3,
        "classes": 1008,
    }


def test_an_encoder_measures_under_its_own_name():
    torch.manual_seed(0)
    model = ResNet(10, 1, 8, 8, mean=(0.5,), std=(0.2,)).eval()
    extract = encoder_extractor(model, "judge")
    images = torch.randint(0, 256, (7, 1, 12, 12), dtype=torch.uint8)
    features, probabilities = extract(images, batch_size=3)
    with torch.no_grad():
        expected = model.features((images.float() / 255).to(next(model.parameters()).device)).cpu()
    assert torch.allclose(features, expected, atol=1e-5) and features.shape == (7, 32)
    assert torch.allclose(probabilities.sum(1), torch.ones(7)) and probabilities.shape == (7, 10)
    floats = images.float() / 127.5 - 1
    assert torch.allclose(extract(floats)[0], features, atol=1e-4)
    names = [extract.metric(kind) for kind in ("distance", "kernel", "score", "f8", "precision")]
    tag = f"[judge@{extract.sha256[:8]}]"
    assert names == [name + tag for name in ("fd", "kd", "class_score", "f8", "precision_k5")]
    assert extract.record["dimension"] == 32 and extract.record["name"] == "encoder:judge"
    with torch.no_grad():
        model.conv1.weight[0, 0, 0, 0] += 1
    assert encoder_extractor(model, "judge").metric("distance") != extract.metric("distance")


def test_grey_images_count_as_rgb_for_the_inception(weights):
    extract = inception_extractor(*weights)
    grey = torch.randint(0, 256, (1, 1, 8, 8), dtype=torch.uint8)
    assert torch.equal(extract(grey)[0], extract(grey.expand(-1, 3, -1, -1))[0])
