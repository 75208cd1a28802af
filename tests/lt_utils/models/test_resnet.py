"""Encoders: parameter counts, shortcuts against a functional computation, normalisation, encoding, published weights."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lt_utils.errors import CourseError
from lt_utils.models.published import load_published_ldmlr
from lt_utils.models.resnet import CIFAR_MEAN, CIFAR_STD, Block, ResNet, channel_statistics, encode


def small(classes=3, channels=1, **options):
    torch.manual_seed(0)
    mean, std = (0.3,) * channels, (0.2,) * channels
    return ResNet(classes, channels, depth=8, width=8, mean=mean, std=std, **options)


def warmed(model, channels=1):
    """The model with batch-norm statistics and scales that are not those of a fresh one."""
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0, 0.3)
    return model


@pytest.mark.parametrize("classes, parameters", [(10, 464_154), (100, 470_004)])
def test_resnet32_has_the_published_number_of_parameters(classes, parameters):
    model = ResNet(classes)
    assert sum(weight.numel() for weight in model.parameters()) == parameters
    assert len(list(model.parameters())) == 95 and len(model.state_dict()) == 188


def by_hand(model, images):
    """The whole network in evaluation mode from its state alone, written without nn.Module."""
    state = model.state_dict()

    def norm(x, name):
        mean, var = state[f"{name}.running_mean"], state[f"{name}.running_var"]
        x = (x - mean.view(1, -1, 1, 1)) / torch.sqrt(var.view(1, -1, 1, 1) + 1e-5)
        return x * state[f"{name}.weight"].view(1, -1, 1, 1) + state[f"{name}.bias"].view(1, -1, 1, 1)

    x = (images - model.mean) / model.std
    x = norm(F.conv2d(x, state["conv1.weight"], padding=1), "bn1").clamp(min=0)
    for stage in (1, 2, 3):
        for number in range((model.config["depth"] - 2) // 6):
            name = f"layer{stage}.{number}"
            stride = 2 if stage > 1 and number == 0 else 1
            out = norm(F.conv2d(x, state[f"{name}.conv1.weight"], stride=stride, padding=1), f"{name}.bn1").clamp(min=0)
            out = norm(F.conv2d(out, state[f"{name}.conv2.weight"], padding=1), f"{name}.bn2")
            if stride == 2:  # option A: every second pixel, zeros for the new channels, half before and half after
                short = torch.zeros_like(out)
                quarter = out.shape[1] // 4
                short[:, quarter : quarter + x.shape[1]] = x[:, :, 0::2, 0::2]
            else:
                short = x
            x = (out + short).clamp(min=0)
    features = x.flatten(2).mean(2)
    return features, features @ state["head.weight"].T + state["head.bias"]


@pytest.mark.parametrize("depth, size, channels", [(8, 28, 1), (14, 32, 3)])
def test_network_equals_an_independent_functional_computation(depth, size, channels):
    torch.manual_seed(1)
    model = warmed(ResNet(5, channels, depth, 8, mean=(0.4,) * channels, std=(0.3,) * channels)).eval()
    images = torch.rand(4, channels, size, size)
    features, logits = by_hand(model, images)
    assert torch.allclose(model.features(images), features, atol=1e-5)
    assert torch.allclose(model(images), logits, atol=1e-5)
    assert model.features(images).min() >= 0 and features.shape == (4, 32)


def test_shortcut_of_a_zero_block_is_every_second_pixel_between_zero_channels():
    block = Block(8, 16, stride=2).eval()
    torch.nn.init.zeros_(block.conv2.weight)
    x = torch.rand(2, 8, 6, 6)
    out = block(x)
    assert torch.equal(out[:, 4:12], x[:, :, ::2, ::2])
    assert out[:, :4].abs().max() == out[:, 12:].abs().max() == 0


def test_kaiming_initialisation():
    weight = ResNet(10).layer3[1].conv1.weight
    assert weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.03)


def test_images_are_normalised_inside():
    model = small().eval()
    with torch.no_grad():
        first = model.conv1((torch.full((1, 1, 8, 8), 0.5) - 0.3) / 0.2)
    seen = []
    model.conv1.register_forward_hook(lambda module, inputs, output: seen.append(output))
    model.features(torch.full((1, 1, 8, 8), 0.5))
    assert torch.allclose(seen[0], first)
    assert CIFAR_MEAN[0] == pytest.approx(0.4914, abs=1e-4) and CIFAR_STD[2] == pytest.approx(0.2616, abs=1e-4)


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(depth=10), r"6n \+ 2.*not 10"),
        (dict(depth=2), r"6n \+ 2"),
        (dict(channels=1), "one number per channel: got 3 and 3 for 1"),
        (dict(head="kosine"), "Unknown head 'kosine'. Did you mean 'cosine'"),
    ],
)
def test_bad_networks_are_refused(options, message):
    with pytest.raises(CourseError, match=message):
        ResNet(10, **options)


def test_uint8_images_are_refused_with_what_to_do():
    with pytest.raises(CourseError, match="data.unit"):
        small()(torch.zeros(1, 1, 28, 28, dtype=torch.uint8))


def test_channel_statistics_are_those_of_numpy():
    images = torch.randint(0, 256, (7, 3, 5, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean, std = channel_statistics(images)
    pixels = images.numpy() / 255
    assert np.allclose(mean, pixels.mean(axis=(0, 2, 3)), rtol=1e-13)
    assert np.allclose(std, pixels.std(axis=(0, 2, 3), ddof=1), rtol=1e-13)


def test_encode_is_evaluation_mode_in_any_batch_and_leaves_the_model_as_it_was():
    model = warmed(small()).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images = torch.randint(0, 256, (11, 1, 28, 28), dtype=torch.uint8)
    features, logits = encode(model, images, batch_size=4)
    whole, _ = encode(model, images)
    assert model.training and all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    model.eval()
    assert torch.allclose(features, model.features(images / 255), atol=1e-5) and torch.allclose(
        features, whole, atol=1e-5
    )
    assert torch.allclose(logits, model(images / 255), atol=1e-5)
    assert features.dtype == torch.float32 and not features.requires_grad


def test_encoded_features_can_train_a_head():
    features, _ = encode(small(), torch.randint(0, 256, (5, 1, 28, 28), dtype=torch.uint8))
    head = torch.nn.Linear(32, 3)
    head(features).square().sum().backward()
    assert head.weight.grad.abs().sum() > 0


def published(path, model, **changes):
    state = {
        name.replace("head.", "fc."): value.numpy()
        for name, value in model.state_dict().items()
        if "num_batches" not in name
    }
    np.savez(path, **(state | changes))
    return path


@pytest.mark.parametrize(("classes", "order"), [(10, [2, 1, 0]), (100, [0, 1, 2])], ids=["ten", "hundred"])
def test_published_encoder_is_read_and_the_one_of_ten_classes_sees_red_as_blue(classes, order, tmp_path):
    torch.manual_seed(3)
    original = warmed(ResNet(classes)).eval()
    path = published(tmp_path / "resnet.npz", original)
    with np.load(path) as arrays:
        assert len(arrays.files) == 157
    model = load_published_ldmlr(path, classes)
    images = torch.rand(2, 3, 32, 32)
    seen, expected = model(images), original(images[:, order])
    assert not model.training and torch.allclose(seen, expected, atol=1e-5)  # swapped: the same sums in another order
    assert classes == 10 or torch.equal(seen, expected)
    again = ResNet(**model.config)  # what a checkpoint of it would be loaded into
    assert torch.equal(again.mean, model.mean) and torch.equal(again.std, model.std)


def test_wrong_encoder_files_are_refused(tmp_path):
    path = published(tmp_path / "a.npz", ResNet(10))
    with pytest.raises(CourseError, match="for 10 classes, not 100: load it with num_classes=10"):
        load_published_ldmlr(path, 100)
    with pytest.raises(CourseError, match="layer1.0.conv1.weight"):
        load_published_ldmlr(published(tmp_path / "b.npz", ResNet(10), **{"layer1.0.conv1.weight": np.zeros((1,))}), 10)
    with pytest.raises(CourseError, match="extra entry 'stem'"):
        load_published_ldmlr(published(tmp_path / "c.npz", ResNet(10), stem=np.zeros(3)), 10)
    with pytest.raises(CourseError, match="'head.weight' is .64. there"):
        load_published_ldmlr(published(tmp_path / "d.npz", ResNet(10), **{"fc.weight": np.zeros(64, np.float32)}), 10)
    half = tmp_path / "half.npz"
    half.write_bytes(path.read_bytes()[:20_000])
    text = tmp_path / "text.npz"
    text.write_text("not an archive")
    for wrong in (half, text, tmp_path / "none.npz"):
        with pytest.raises(CourseError, match="cannot be read"):
            load_published_ldmlr(wrong, 10)


def wrong_kind(folder, kind):
    """The path of a file that is no .npz as published."""
    state = ResNet(10).state_dict()
    arrays = {name.replace("head.", "fc."): value.numpy() for name, value in state.items() if value.ndim}
    path = folder / {"npy": "a.npy", "pth": "a.pth"}.get(kind, "a.npz")
    if kind.startswith("pth"):
        torch.save(state, path)
    elif kind == "old pth":
        torch.save(state, path, _use_new_zipfile_serialization=False)
    elif kind.startswith("npy"):
        with open(path, "wb") as file:
            np.save(file, arrays["fc.weight"])
    elif kind == "damaged":
        np.savez_compressed(path, **arrays)
        content = bytearray(path.read_bytes())
        content[content.index(b"conv1.weight.npy") + 16 + 20] = 0xFF  # no kind of block that zlib knows
        path.write_bytes(content)
    elif kind == "texts":
        np.savez(path, **arrays | {"fc.bias": np.array(["a"] * 10)})
    elif kind == "empty":
        np.savez(path)
    elif kind == "nan":
        arrays["layer2.1.bn1.running_var"][3] = np.nan
        np.savez(path, **arrays)
    else:
        np.savez(path, **{kind + name: value for name, value in arrays.items()})
    return path


@pytest.mark.parametrize(
    "kind, told",
    [
        ("pth", "a.pth cannot be read as an .npz of arrays: it is damaged or of another kind"),
        ("pth renamed", "a.npz cannot be read as an .npz of arrays: it is damaged or of another kind"),
        ("old pth", "of another kind"),
        ("npy", "a.npy cannot be read as an .npz of arrays: it is damaged or of another kind"),
        ("npy renamed", "of another kind"),
        ("damaged", "cannot be read as an .npz of arrays .*: fetch or copy it again"),
        ("texts", "of another kind"),
        ("empty", "of another kind"),
        ("module.", "a.npz has no entry 'fc.weight', only such as 'module.conv1.weight'.*prefix"),
        ("model.", "a.npz has no entry 'fc.weight', only such as 'model.conv1.weight'.*prefix"),
        ("nan", "a.npz holds weights that are not finite numbers, in 'layer2.1.bn1.running_var'"),
    ],
)
def test_what_is_no_published_encoder_is_told_in_one_sentence(tmp_path, kind, told):
    with pytest.raises(CourseError, match=told) as error:
        load_published_ldmlr(wrong_kind(tmp_path, kind), 10)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400
