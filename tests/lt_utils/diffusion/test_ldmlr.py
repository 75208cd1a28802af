"""LDMLR as published: the network beside another library's, each defect beside an independent account of what it says."""

import copy

import pytest
import torch
from denoising_diffusion_pytorch import GaussianDiffusion1D, Unet1D
from torch import nn

from lt_utils.data.augmentation import unit
from lt_utils.diffusion.ldmlr import (
    Defects,
    PublishedGenerator,
    extract,
    loss_weights,
    published_loss,
    train_published,
)
from lt_utils.diffusion.samplers import ancestral, guided
from lt_utils.diffusion.schedules import cosine_schedule
from lt_utils.errors import CourseError
from lt_utils.models.feature_denoisers import FeatureUNet, ResidualMLP
from lt_utils.models.resnet import ResNet, encode
from lt_utils.models.unet import sinusoid
from lt_utils.training import loop
from lt_utils.training.loop import batch_of

SMALL = dict(width=8, mults=(1, 2))


# -------------------------------------------------------------------------------------------------------------- network
@pytest.mark.parametrize("classes, parameters", [(10, 7_781_761), (100, 7_781_761 + 90 * 256)])
def test_the_network_has_the_published_number_of_parameters(classes, parameters):
    model = FeatureUNet(64, classes)
    assert sum(weight.numel() for weight in model.parameters()) == parameters
    kernels = {layer.kernel_size for layer in model.modules() if isinstance(layer, nn.Conv1d)}
    assert kernels == {(1,)}


class Sinusoid(nn.Module):
    def forward(self, t):
        return sinusoid(t, 16)


class AddLabel(nn.Module):
    """The class embedding, which the other library does not have; `y` is set before a call."""

    def __init__(self, table):
        super().__init__()
        self.table, self.y = table, None

    def forward(self, condition):
        return condition + self.table[self.y]


def as_published(peer, model):
    """The other library's U-Net with kernels of size 1, group normalisation and labels, and with the weights of `model`."""

    def kernel_one(layer):
        return nn.Conv1d(layer.in_channels, layer.out_channels, 1, layer.stride, bias=layer.bias is not None)

    for module in list(peer.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Conv1d):
                setattr(module, name, kernel_one(child))
        if type(module).__name__ == "Block":
            module.norm = nn.GroupNorm(8, module.proj.out_channels)
    pairs = [(peer.init_conv, model.stem), (peer.final_conv, model.out)]
    pairs += [(peer.time_mlp[1], model.condition.mlp[0]), (peer.time_mlp[3], model.condition.mlp[2])]

    def block(theirs, ours):
        pairs.extend(
            [(theirs.block1.proj, ours.conv1), (theirs.block1.norm, ours.norm1), (theirs.mlp[1], ours.condition)]
        )
        pairs.extend([(theirs.block2.proj, ours.conv2), (theirs.block2.norm, ours.norm2)])
        if isinstance(ours.shortcut, nn.Conv1d):
            pairs.append((theirs.res_conv, ours.shortcut))

    def attention(theirs, ours):
        inner, gains = theirs.fn.fn, [(theirs.fn.norm.g, ours.norm.gain)]
        out = inner.to_out[0] if ours.linear else inner.to_out
        pairs.extend([(inner.to_qkv, ours.qkv), (out, ours.out)])
        if ours.linear:
            gains.append((inner.to_out[1].g, ours.out_norm.gain))
        for their, our in gains:
            their.data = our.data[None]

    for theirs, ours in [*zip(peer.downs, model.down, strict=True), *zip(peer.ups, model.up, strict=True)]:
        block(theirs[0], ours[0])
        block(theirs[1], ours[1])
        attention(theirs[2], ours[2])
        theirs, ours = ((layer[-1] if isinstance(layer, nn.Sequential) else layer) for layer in (theirs[3], ours[3]))
        pairs.append((theirs, ours))
    block(peer.mid_block1, model.middle[0])
    attention(peer.mid_attn, model.middle[1])
    block(peer.mid_block2, model.middle[2])
    block(peer.final_res_block, model.last)
    for theirs, ours in pairs:
        theirs.load_state_dict(ours.state_dict())
    label = AddLabel(model.condition.label.weight)
    peer.time_mlp = nn.Sequential(Sinusoid(), *peer.time_mlp[1:], label)
    return peer, label


def test_the_network_equals_the_u_net_of_another_library_with_kernels_of_size_one():
    torch.manual_seed(0)
    model = FeatureUNet(16, 3, width=16, mults=(1, 2, 3))
    for weight in model.parameters():
        nn.init.normal_(weight, std=0.3)  # gains and biases too, so that each is seen
    peer, label = as_published(Unet1D(16, dim_mults=(1, 2, 3), channels=1), model)
    x, t, label.y = torch.randn(5, 16), torch.tensor([0, 10, 400, 998, 999]), torch.tensor([0, 1, 2, 0, 1])
    theirs = peer(x[:, None], t)[:, 0]
    assert theirs.std() > 0.1
    assert torch.allclose(model(x, t, label.y), theirs, rtol=1e-4, atol=1e-4 * theirs.std().item())
    trained = sum(weight.numel() for weight in peer.parameters())  # the table of the labels among them
    assert trained == sum(weight.numel() for weight in model.parameters())


def test_output_depends_on_step_and_label_and_not_on_the_rest_of_the_batch():
    torch.manual_seed(0)
    model = FeatureUNet(8, 3, **SMALL)
    x, t, y = torch.randn(4, 8), torch.tensor([5, 5, 900, 0]), torch.tensor([0, 1, 2, 3])
    out = model(x, t, y)
    assert out.shape == x.shape and model.no_label == 3
    assert (model(x, t + 50, y) - out).abs().amax(1).min() > 1e-4
    assert (model(x, t, (y + 1) % 4) - out).abs().amax(1).min() > 1e-4
    assert torch.allclose(
        torch.cat([model(x[i : i + 1], t[i : i + 1], y[i : i + 1]) for i in range(4)]), out, atol=1e-3
    )


def test_the_network_cannot_tell_blocks_of_positions_apart_unless_it_is_told():
    torch.manual_seed(0)
    x, t, y = torch.randn(4, 64), torch.tensor([0, 10, 500, 999]), torch.tensor([0, 1, 2, 0])
    published, told = (FeatureUNet(64, 3, width=8, positions=positions) for positions in (False, True))
    for model, shift, same in ((published, 8, True), (published, 4, False), (told, 8, False)):
        out, moved = model(x, t, y), model(x.roll(shift, 1), t, y).roll(-shift, 1)
        assert torch.allclose(moved, out, atol=1e-3 if same else 5e-3) == same
    told.positions.data.zero_()
    told.load_state_dict(published.state_dict(), strict=False)
    assert torch.equal(told(x, t, y), published(x, t, y))
    more = sum(weight.numel() for weight in FeatureUNet(64, 10, positions=True).parameters()) - 7_781_761
    assert more == 64 * 64


@pytest.mark.parametrize("options", [dict(dim=36), dict(dim=64, width=12)])
def test_a_feature_that_cannot_be_halved_and_a_width_without_eight_groups_are_refused(options):
    with pytest.raises(CourseError, match="halves a feature 3 times"):
        FeatureUNet(num_classes=10, **options)


# ------------------------------------------------------------------------------------------------------------- defects
def test_published_turns_every_defect_on_and_the_default_none():
    assert Defects().key == "none"
    names = "train_mode_bn lost_stem_relu augmented clamp_range unclipped_snr no_positions sgd".split()
    assert Defects.published().key == "+".join(names)
    assert Defects(sgd=True, augmented=True).key == "augmented+sgd"


@pytest.fixture(scope="module")
def encoder():
    """An encoder whose batch normalisation has statistics and gains of its own."""
    torch.manual_seed(1)
    model = ResNet(3, depth=8, width=8)
    for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm2d)):
        for tensor in (norm.weight.data, norm.running_var):
            tensor.uniform_(0.5, 1.5)
        for tensor in (norm.bias.data, norm.running_mean):
            tensor.normal_(std=0.3)
    return model.eval()


@pytest.fixture(scope="module")
def images():
    return torch.randint(256, (150, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_without_defects_the_features_are_those_of_encode(encoder, images):
    random, expected = torch.get_rng_state(), encode(encoder, images)[0]
    for seed, batch in ((0, 64), (5, 7)):  # neither may matter
        assert torch.allclose(extract(encoder, images, seed=seed, batch_size=batch), expected, rtol=0, atol=1e-6)
    assert torch.equal(torch.get_rng_state(), random)


def test_train_mode_bn_normalises_by_the_batch_and_leaves_the_model_alone(encoder, images):
    before = copy.deepcopy(encoder.state_dict())
    found = extract(encoder, images, Defects(train_mode_bn=True), batch_size=len(images))
    with torch.no_grad():
        expected = copy.deepcopy(encoder).train().features(unit(images))
    assert torch.allclose(found, expected, atol=1e-5)
    assert not torch.allclose(found, extract(encoder, images), atol=0.05)
    assert not encoder.training and all(map(torch.equal, before.values(), encoder.state_dict().values()))
    # Which images share a batch matters now, and the seed decides it.
    of_seed = [extract(encoder, images, Defects(train_mode_bn=True), seed=seed) for seed in (0, 0, 1)]
    assert torch.equal(of_seed[0], of_seed[1]) and not torch.allclose(of_seed[0], of_seed[2], atol=1e-3)


def test_lost_stem_relu_is_the_chain_of_the_child_modules(encoder, images):
    children = encoder.conv1, encoder.bn1, encoder.layer1, encoder.layer2, encoder.layer3
    chain = nn.Sequential(*children, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with torch.no_grad():
        expected = chain((unit(images) - encoder.mean) / encoder.std)
    found = extract(encoder, images, Defects(lost_stem_relu=True))
    assert torch.allclose(found, expected, atol=1e-5)
    assert not torch.allclose(found, extract(encoder, images), atol=0.05)


def test_augmented_takes_one_crop_or_mirrored_crop_of_each_image(encoder, images):
    few = images[:6]
    found = extract(encoder, few, Defects(augmented=True), batch_size=4)
    padded = torch.nn.functional.pad(few, (4, 4, 4, 4))
    crops = [padded[:, :, y : y + 8, x : x + 8] for y in range(9) for x in range(9)]
    views = torch.stack([encode(encoder, view)[0] for crop in crops for view in (crop, crop.flip(3))], dim=1)
    distance = (views - found[:, None]).abs().amax(2)
    assert distance.amin(1).max() < 1e-5
    # Not the same view for all: each is drawn for itself, and another seed draws others.
    assert len(set(distance.argmin(1).tolist())) > 1
    assert not torch.allclose(extract(encoder, few, Defects(augmented=True), seed=1), found, atol=1e-3)


def test_snr_weights_are_the_published_ones_and_at_most_five_otherwise():
    weights = loss_weights(cosine_schedule(1000), unclipped_snr=True)
    for t, value in ((0, 24_221), (10, 1_386), (100, 34.2), (500, 0.97), (900, 0.024)):
        assert weights[t].item() == pytest.approx(value, rel=0.02 if t == 900 else 4e-3)
    assert weights.mean().item() == pytest.approx(86, abs=0.5)
    peer = GaussianDiffusion1D(Unet1D(8, dim_mults=(1,), channels=1), seq_length=8, objective="pred_x0")
    assert torch.allclose(weights.float(), peer.loss_weight, rtol=1e-3)
    clipped = loss_weights(cosine_schedule(1000))
    assert clipped.max() == 5 and torch.equal(clipped[500:], weights[500:])


def test_unclipped_weights_make_the_loss_that_of_noise_prediction():
    schedule, x0 = cosine_schedule(1000), torch.randn(4000, 3, dtype=torch.float64)

    def model(x_t, t, y):
        a, s = schedule.scales(t, x_t)
        noise_error = (torch.arange(3) + 1.0) * (t[:, None] > 300)
        return x0 - s / a * noise_error  # eps and x_0 estimates: x_t = a x_0 + s eps

    torch.manual_seed(0)
    loss = published_loss(model, schedule, x0, None, loss_weights(schedule, True))
    torch.manual_seed(0)
    share = (torch.randint(1000, (4000,)) > 300).double().mean()
    assert loss.item() == pytest.approx(share.item() * (1 + 4 + 9) / 3, rel=1e-9)


def smooth():
    """Another denoiser of the same interface: so small a U-Net norms groups of 8 numbers, which magnifies rounding."""
    torch.manual_seed(0)
    model = ResidualMLP(8, 3, 16, 1).eval()
    nn.init.normal_(model.out.weight, std=0.3)
    return model


def test_the_clamp_confines_samples_to_the_unit_range_and_nothing_else_does():
    labels, schedule = torch.tensor([0, 1, 2, 0]), cosine_schedule(30)
    clamped, free = (PublishedGenerator(smooth(), schedule, on).generate(labels, steps=30) for on in (True, False))
    assert clamped.min() >= 0 and clamped.max() <= 1
    assert free.min() < -0.5 or free.max() > 1.5


@pytest.mark.parametrize("clamp", [True, False])
def test_sampling_is_ancestral(clamp):
    model, schedule, labels = smooth(), cosine_schedule(40), torch.tensor([0, 1, 2])
    found = PublishedGenerator(model, schedule, clamp).generate(labels, steps=40, seed=3)
    start = torch.randn(3, 8, generator=torch.Generator().manual_seed(3))
    predict = guided(model, schedule, labels, "x0", clip=1.0 if clamp else None)
    expected = ancestral(predict, schedule, start, generator=torch.Generator().manual_seed(4))
    assert torch.allclose(found, (expected + 1) / 2, atol=1e-4)


def test_generating_takes_seeds_batches_no_label_at_all_and_no_guidance():
    generator = PublishedGenerator(smooth(), cosine_schedule(1000), True)
    labels = torch.tensor([0, 1, 2, 0])
    first, again, other = (generator.generate(labels, steps=4, eta=0.0, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.allclose(first, other, atol=1e-3)
    assert torch.allclose(generator.generate(labels, steps=4, eta=0.0, batch_size=3), first, atol=1e-4)
    assert generator.generate(labels[:0]).shape == (0, 8)
    with pytest.raises(CourseError, match="cannot be guided"):
        generator.generate(labels, omega=1.0)


# ------------------------------------------------------------------------------------------------------------- training
def problem(n=96, dim=8):
    """Three classes of features in 0..1, each close to its own mean, as tensors (features, labels, means)."""
    torch.manual_seed(0)
    means, labels = torch.rand(3, dim), torch.arange(n) % 3
    return means[labels] + 0.02 * torch.randn(n, dim), labels, means


def test_training_lowers_the_loss_and_the_samples_find_their_class():
    features, labels, means = problem()
    options = dict(width=16, mults=(1, 2), batch_size=48)
    schedule, weights = cosine_schedule(1000), loss_weights(cosine_schedule(1000)).float()

    def loss(model):
        torch.manual_seed(1)
        with torch.no_grad():
            return published_loss(model, schedule, 2 * features - 1, labels, weights).item()

    generator = train_published(features, labels, 3, steps=80, **options)
    torch.manual_seed(0)
    assert loss(generator.model) < 0.3 * loss(FeatureUNet(8, 3, 16, (1, 2), positions=True))
    assert not generator.model.training
    drawn = generator.generate(labels[:30], steps=50)
    assert torch.cdist(drawn, means).argmin(1).eq(labels[:30]).double().mean() > 0.9


def test_sgd_is_a_plain_step_on_batches_that_repeat():
    features, labels, _ = problem(8)
    generator = train_published(features, labels, 3, Defects(sgd=True), steps=3, batch_size=4, seed=2, **SMALL)
    schedule, weights = cosine_schedule(1000), loss_weights(cosine_schedule(1000)).float()
    torch.manual_seed(2)
    model = FeatureUNet(8, 3, **SMALL, positions=True)
    for k in range(3):  # the third step, in the second epoch, sees the batch of the first again
        torch.manual_seed(2 * 10_000_019 + k)
        index = batch_of(k % 2, 8, 4, 2)
        loss = published_loss(model, schedule, 2 * features[index] - 1, labels[index], weights)
        slopes = torch.autograd.grad(loss, list(model.parameters()))
        with torch.no_grad():
            for weight, slope in zip(model.parameters(), slopes, strict=True):
                weight -= 1e-4 * slope
    assert not torch.equal(batch_of(2, 8, 4, 2), batch_of(0, 8, 4, 2))
    ours = torch.cat([weight.flatten() for weight in generator.model.parameters()])
    expected = torch.cat([weight.flatten() for weight in model.parameters()])
    assert torch.allclose(ours, expected, rtol=0, atol=1e-7)


def weights_after(defects, **options):
    features, labels, _ = problem(16)
    generator = train_published(features, labels, 3, defects, steps=6, batch_size=8, **SMALL, **options)
    return generator.clamp_range, torch.cat([weight.flatten() for weight in generator.model.parameters()])


def test_each_switch_of_stage_two_changes_what_it_says_and_nothing_else():
    clamp, clean = weights_after(Defects())
    assert not clamp
    for same in (Defects(train_mode_bn=True), Defects(lost_stem_relu=True), Defects(augmented=True)):
        assert torch.equal(weights_after(same)[1], clean)
    clamp, weights = weights_after(Defects(clamp_range=True))
    assert clamp and torch.equal(weights, clean)  # sampling alone
    for other in (Defects(unclipped_snr=True), Defects(sgd=True)):
        clamp, weights = weights_after(other)
        assert not clamp and not torch.allclose(weights, clean, atol=1e-5)
    assert len(clean) - len(weights_after(Defects(no_positions=True))[1]) == 8 * 8


@pytest.mark.parametrize("defects", [Defects(), Defects.published()], ids=["none", "published"])
def test_an_interrupted_training_ends_bit_for_bit_where_an_uninterrupted_one_does(defects, tmp_path, monkeypatch):
    path = tmp_path / "diffusion.safetensors"

    def leave_after_two(steps, label, **_):
        for step in steps:
            yield step
            if step.step == 2:
                raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(loop, "track", leave_after_two)
        with pytest.raises(KeyboardInterrupt):
            weights_after(defects, checkpoint=path)
    assert path.exists()
    resumed, whole = weights_after(defects, checkpoint=path)[1], weights_after(defects)[1]
    assert torch.equal(resumed, whole)
