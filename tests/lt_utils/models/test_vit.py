"""Vision transformers and masked autoencoders against timm, stored outputs of transformers' ViTMAE, and by hand."""

import math

import pytest
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer

from lt_utils.errors import CourseError
from lt_utils.models.mae import MaskedAutoencoder, kept_patches, random_order, standardise
from lt_utils.models.vit import (
    VIT_SIZES,
    PatchEncoder,
    ViT,
    drop_path,
    from_patches,
    position_code,
    resize_positions,
    to_patches,
)

TINY = dict(channels=2, size=12, patch=3, width=8, depth=2, heads=2, mean=(0.0, 0.0), std=(1.0, 1.0))


def from_formula(model):
    """The model in float64 with weights that a formula gives, the same on every machine."""
    model = model.double().eval()
    with torch.no_grad():
        for number, (name, weight) in enumerate(sorted(model.named_parameters())):
            if not name.endswith("positions"):
                waves = torch.sin(1.7 * torch.arange(weight.numel(), dtype=weight.dtype) + number)
                weight.copy_(0.3 * waves.view_as(weight) + ("norm" in name and name.endswith("weight")))
    return model


def pictures(count=3):
    return torch.sin(0.37 * torch.arange(count * 2 * 144, dtype=torch.float64)).view(count, 2, 12, 12) ** 2


def timm_peer(token):
    """timm's transformer of the sizes in TINY."""
    sizes = dict(img_size=12, patch_size=3, in_chans=2, num_classes=5, embed_dim=8, depth=2, num_heads=2)
    pool = dict(class_token=token, global_pool="token" if token else "avg", fc_norm=not token)
    return VisionTransformer(**sizes, **pool).double().eval()


def timm_names(ours):
    """{timm's name: our weight}."""
    found = {}
    for name, weight in ours.named_parameters():
        if name == "encoder.positions":
            zeros = weight.new_zeros(0 if ours.encoder.token is None else 1, 8)
            weight = torch.cat([zeros, weight])[None]  # timm gives the class token a position, too
        elif name == "encoder.project.weight":
            weight = weight.view(8, 2, 3, 3)
        elif name.startswith("norm"):
            name = ("fc_norm" if ours.pool == "mean" else "norm") + name.removeprefix("norm")
        for mine, theirs in (
            ("encoder.positions", "pos_embed"),
            ("encoder.token", "cls_token"),
            ("encoder.project", "patch_embed.proj"),
            ("encoder.blocks", "blocks"),
            ("attention.out", "attn.proj"),
            ("attention.qkv", "attn.qkv"),
            ("mlp.0", "mlp.fc1"),
            ("mlp.2", "mlp.fc2"),
        ):
            name = name.replace(mine, theirs)
        found[name] = weight
    return found


@pytest.mark.parametrize("token", [False, True])
def test_outputs_and_gradients_are_timms(token):
    ours = from_formula(ViT(5, **TINY, class_token=token, pool="token" if token else "mean"))
    peer = timm_peer(token)
    peer.load_state_dict({name: weight.detach().clone() for name, weight in timm_names(ours).items()})
    images, labels = pictures(), torch.tensor([0, 3, 1])
    assert (ours(images) - peer(images)).abs().max() < 1e-12
    F.cross_entropy(ours(images), labels).backward()
    F.cross_entropy(peer(images), labels).backward()
    theirs = {name: weight.grad for name, weight in peer.named_parameters()}
    for weight in ours.parameters():
        weight.data = weight.grad  # so that timm_names renames and reshapes the gradients
    for name, gradient in timm_names(ours).items():
        there = theirs[name].clone()
        if name == "pos_embed" and token:
            there[:, 0] = 0
        assert (gradient - there).abs().max() < 1e-12, name


# What timm 1.0.31 and transformers 5.24.0 (ViTMAEForPreTraining, norm_pix_loss) give for the weights of `from_formula`.
TIMM = {
    False: [-0.47757313000711255, -0.48324696506617854, 0.14171439735837227, 0.9549464425716521, 0.5927066438966201],
    True: [-0.355332652882787, 0.4024838863044373, 1.147526548224502, 0.7780247183536741, -0.7331557669352875],
}
MAE_LOSS = 4.5684333709741
MAE_OUTPUT = [-1.8878855782254906, -1.5384949122384095, 1.7884470006924287]
MAE_OUTPUT += [1.6969461374875823, -1.7046324215730004, -1.8557858521824233]
MAE_GRADIENT = [5.511470845986024e-05, 0.00012724489101785825, 0.00016824701945154964, 0.000131425792566331]


@pytest.mark.parametrize("token", [False, True])
def test_outputs_are_the_stored_ones_of_timm(token):
    ours = from_formula(ViT(5, **TINY, class_token=token, pool="token" if token else "mean"))
    assert ours(pictures())[1].tolist() == pytest.approx(TIMM[token], abs=1e-12)


def test_masked_autoencoder_gives_the_stored_output_loss_and_gradient():
    ours = from_formula(MaskedAutoencoder(12, 1, 3, **TINY, class_token=True))
    order = torch.sin(5.1 * torch.arange(3 * 16, dtype=torch.float64) + 0.3).view(3, 16).argsort(1)
    loss = ours.loss(pictures(), 0.75, order)
    output = ours(ours.encoder.patches(pictures()), order, 4)
    # The peer writes a patch as (row, column, channel), ours is (channel, row, column): weights of the last layer were turned.
    assert output[1, 5, :6].tolist() == pytest.approx(MAE_OUTPUT, abs=1e-12)
    assert loss.item() == pytest.approx(MAE_LOSS, abs=1e-12)
    loss.backward()
    assert ours.encoder.project.weight.grad[2, :4].tolist() == pytest.approx(MAE_GRADIENT, abs=1e-15)


def test_vit_b16_has_the_usual_number_of_parameters():
    model = ViT(1000, channels=3, size=224, patch=16, **VIT_SIZES["base"], class_token=True, pool="token")
    assert sum(weight.numel() for weight in model.parameters()) == 86_567_656 - 768  # the class token's position


def test_the_position_code_tells_columns_first():
    code = position_code(8, 3)
    one, small = 1.0, 0.01
    assert torch.allclose(
        code[1], torch.tensor([math.sin(one), math.sin(small), math.cos(one), math.cos(small), 0, 0, 1, 1])
    )
    assert torch.allclose(
        code[3], torch.tensor([0, 0, 1, 1, math.sin(one), math.sin(small), math.cos(one), math.cos(small)])
    )


def test_patches_are_those_of_a_convolution_and_go_back():
    images = torch.randn(2, 3, 12, 12)
    patches, weight = to_patches(images, 4), torch.randn(5, 3, 4, 4)
    by_convolution = F.conv2d(images, weight, stride=4).flatten(2).transpose(1, 2)
    assert torch.allclose(patches @ weight.flatten(1).T, by_convolution, atol=1e-4)
    assert torch.equal(from_patches(patches, 3), images)


def keys_kernel(t, a=-0.75):
    """The cubic kernel (Keys 1981) with torch's a."""
    t = abs(t)
    return (a + 2) * t**3 - (a + 3) * t**2 + 1 if t <= 1 else a * (t**3 - 5 * t**2 + 8 * t - 4) if t < 2 else 0.0


def test_resized_positions_are_a_bicubic_image():
    torch.manual_seed(0)
    code = torch.randn(8 * 8, 4)
    resized = resize_positions(code, 16).view(16, 16, 4)
    grid, weights = code.view(8, 8, 4), {}
    for new in (6, 9):  # the centre of a half-sized cell, measured in old cells
        weights[new] = torch.tensor([keys_kernel((new + 0.5) / 2 - 0.5 - old) for old in range(8)])
    by_hand = torch.einsum("r,c,rcd->d", weights[6], weights[9], grid)
    assert torch.allclose(resized[6, 9], by_hand, atol=1e-5)
    assert resize_positions(code, 8) is code


def test_drop_path_leaves_out_images_whole_and_keeps_the_mean():
    torch.manual_seed(0)
    dropped = drop_path(torch.ones(20_000, 2, 3), 0.25)
    kept = dropped[:, 0, 0] > 0
    assert abs(kept.float().mean().item() - 0.75) < 0.01
    assert torch.equal(dropped, kept[:, None, None] * torch.full((1, 2, 3), 4 / 3))
    model = ViT(3, **TINY, drop_path=0.5)
    assert [block.drop for block in model.encoder.blocks] == [0, 0.5]
    images = pictures().float()
    assert torch.equal(model.eval()(images), model(images))


def test_what_is_hidden_is_not_seen():
    model = from_formula(MaskedAutoencoder(12, 1, 3, **TINY))
    patches, order = model.encoder.patches(pictures()), random_order(3, 16)
    before = model(patches, order, 4)
    changed = patches.clone()
    changed[torch.arange(3)[:, None], order[:, 4:]] = 7.0
    assert torch.equal(model(changed, order, 4), before)
    changed[0, order[0, 0]] = 7.0
    assert not torch.allclose(model(changed, order, 4)[0], before[0])


def test_the_loss_is_that_of_hidden_patches_alone():
    model = from_formula(MaskedAutoencoder(12, 1, 3, **TINY))
    images, order = pictures(), random_order(3, 16)
    patches = model.encoder.patches(images)
    guess = model(patches, order, 4)
    total = 0.0
    for image in range(3):
        for place in order[image, 4:].tolist():
            x = patches[image, place]
            target = (x - x.mean()) / math.sqrt(((x - x.mean()) ** 2).sum() / (len(x) - 1) + 1e-6)
            total += ((guess[image, place] - target) ** 2).mean().item()
    assert model.loss(images, 0.75, order).item() == pytest.approx(total / 36, rel=1e-10)


def test_a_guess_of_nothing_costs_the_share_of_patches_that_are_not_flat():
    patches = torch.rand(6, 20, 16, dtype=torch.float64)
    patches[:, :5] = 0.4
    assert standardise(patches).square().mean().item() == pytest.approx(0.75 * 15 / 16, abs=1e-3)  # var with M - 1


def test_random_orders_keep_each_place_equally_often():
    order = random_order(16_000, 16)
    assert torch.equal(order.sort(1).values, torch.arange(16).expand(16_000, 16))
    often = torch.bincount(order[:, :4].flatten(), minlength=16) / 16_000
    assert (often - 0.25).abs().max() < 0.02


@pytest.mark.parametrize(
    "number, ratio, kept", [(196, 0.75, 49), (64, 0.75, 16), (16, 0.75, 4), (10, 0.9, 1), (7, 0.5, 3)]
)
def test_numbers_of_kept_patches(number, ratio, kept):
    assert kept_patches(number, ratio) == kept


@pytest.mark.parametrize("ratio", [0, 0.95, 1, -0.2])
def test_a_mask_that_keeps_none_or_all_is_refused(ratio):
    with pytest.raises(CourseError, match="patches: some must be seen, and some be hidden"):
        kept_patches(16, ratio)


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(patch=5), r"Patches of 5 pixels do not divide an image of 12: choose one of \[2, 3, 4, 6, 12\]"),
        (dict(heads=3), "3 heads do not divide a width of 8"),
        (dict(width=6), "needs a width that 4 divides, not 6"),
        (dict(mean=(0.0,)), "one number per channel"),
    ],
)
def test_bad_sizes_are_refused_in_a_sentence(changes, message):
    with pytest.raises(CourseError, match=message):
        PatchEncoder(**TINY | changes)


def test_bad_input_is_refused_in_a_sentence():
    with pytest.raises(CourseError, match="pool is"):
        ViT(3, **TINY, pool="token")
    with pytest.raises(CourseError, match=r"takes images of \(2, 12, 12\), not \(2, 15, 15\)"):
        ViT(3, **TINY)(torch.rand(1, 2, 15, 15))
    with pytest.raises(CourseError, match="in 0..1"):
        ViT(3, **TINY)(torch.zeros(1, 2, 12, 12, dtype=torch.uint8))
