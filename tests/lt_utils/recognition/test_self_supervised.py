"""Learning without labels: rotation, MoCo v2 and Barlow Twins against closed forms, another library and themselves, resumed."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from lt_utils.data.datasets import ImageData
from lt_utils.errors import CourseError
from lt_utils.models.resnet import ResNet
from lt_utils.models.unet import UNet
from lt_utils.recognition import encoders, self_supervised, two_stage
from lt_utils.recognition.self_supervised import (
    MoCo,
    barlow_twins,
    info_nce,
    rotation_accuracy,
    rotation_batch,
    rotation_loss,
    train_moco,
    train_rotation,
    turn,
)
from lt_utils.training import checkpoints

pytestmark = pytest.mark.usefixtures("on_the_cpu")


@pytest.fixture(scope="module")
def data():
    """Two classes: one bright at the top, so that its turn can be seen, one the same from all four sides."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor([0] * 60 + [1] * 30)
    images = torch.randint(0, 40, (90, 1, 8, 8), generator=generator)
    images[:60, :, :3] += 180
    images[60:] += 90
    return ImageData("toy", images.byte(), labels, images[::2].byte(), labels[::2], ("arrow", "ball"))


def weights(model):
    return torch.cat([value.flatten().float() for value in model.state_dict().values()])


# ------------------------------------------------------------------------------------------------------------ rotation
def test_turn_is_rot90_image_by_image():
    images = torch.randint(0, 256, (9, 3, 5, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    turns = torch.tensor([0, 1, 2, 3, 3, 2, 1, 0, 2])
    expected = torch.stack([torch.rot90(image, int(k), (1, 2)) for image, k in zip(images, turns, strict=True)])
    assert torch.equal(turn(images, turns), expected)
    assert torch.equal(turn(turn(images, turns), (4 - turns) % 4), images)
    corner = torch.tensor([[1, 0], [0, 0]]).view(1, 1, 2, 2)  # anticlockwise: top left goes to the bottom left
    assert turn(corner, torch.tensor([1])).flatten().tolist() == [0, 0, 1, 0]


def test_every_turn_comes_equally_often_in_random_order():
    images = torch.arange(64).view(64, 1, 1, 1).expand(64, 1, 4, 4).byte()
    torch.manual_seed(0)
    turned, turns = rotation_batch(images)
    assert torch.bincount(turns).tolist() == [16] * 4 and torch.equal(turned, images)  # these images have no direction
    orders = {tuple(rotation_batch(images)[1].tolist()) for _ in range(20)}
    assert len(orders) == 20
    # no image is tied to one turn
    seen = torch.stack([rotation_batch(images)[1] for _ in range(400)])
    assert torch.allclose(seen.double().mean(0), torch.full((64,), 1.5).double(), atol=0.3)
    assert sorted(torch.bincount(rotation_batch(images[:14])[1], minlength=4).tolist()) == [3, 3, 4, 4]


def test_the_labels_name_the_turn_that_was_made():
    images = torch.randint(0, 256, (32, 1, 6, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    turned, turns = rotation_batch(images)
    for one, before, k in zip(turned, images, turns.tolist(), strict=True):
        assert torch.equal(one, before.rot90(k, (1, 2)))


def test_a_network_that_cannot_tell_pays_log_four(data):
    model = ResNet(4, 1, 8, 4, mean=(0.5,), std=(0.5,))
    torch.nn.init.zeros_(model.head.weight)
    torch.nn.init.zeros_(model.head.bias)
    assert rotation_loss(data, 1)(model, torch.arange(90)).item() == pytest.approx(math.log(4), rel=1e-5)


def test_it_learns_the_turn_of_what_has_one_and_not_of_what_has_none(data):
    model = train_rotation(data, epochs=8, width=4, batch_size=16)
    assert not model.training and model.head.weight.shape == (4, 16)
    arrow, ball = rotation_accuracy(model, data.test_images, data.test_labels, 2).tolist()
    assert arrow > 90 and ball < 60


def test_rotation_accuracy_is_the_mean_over_images_and_turns(data):
    model = train_rotation(data, epochs=1, width=4, batch_size=32).eval()
    expected = []
    for c in range(2):
        own = data.test_images[data.test_labels == c] / 255
        right = [(model(own.rot90(k, (2, 3))).argmax(1) == k).double() for k in range(4)]
        expected.append(100 * torch.stack(right).mean().item())
    assert rotation_accuracy(model, data.test_images, data.test_labels, 2).tolist() == pytest.approx(expected)


def test_rotation_does_not_look_at_labels_and_resumes(data, tmp_path, interrupted):
    options = dict(epochs=2, width=4, batch_size=32, seed=3)
    whole = train_rotation(data, **options)
    other = replace(data, train_labels=data.train_labels.flip(0))
    assert torch.equal(weights(train_rotation(other, **options)), weights(whole))
    options["checkpoint"] = tmp_path / "rotation.safetensors"
    interrupted(4, lambda: train_rotation(data, **options))
    assert checkpoints.load(options["checkpoint"])[1]["step"] == 4
    assert torch.equal(weights(train_rotation(data, **options)), weights(whole))
    with pytest.raises(CourseError, match="another training.*recipe"):
        train_rotation(replace(data, train_images=data.train_images // 2), **options)


# --------------------------------------------------------------------------------------- from the pretext to the classes
def test_a_pretrained_body_starts_a_supervised_training_from_a_file(data, tmp_path):
    body = train_rotation(data, epochs=1, width=4, batch_size=32)
    checkpoints.save_model(tmp_path / "body.safetensors", body)
    loaded, _ = checkpoints.load_model(tmp_path / "body.safetensors", ResNet)
    network = encoders.build_encoder(data, "ce", width=4)
    encoders.start_from(network, loaded)
    own, given = network.state_dict(), body.state_dict()
    assert all(torch.equal(own[name], given[name]) != name.startswith("head.") for name in own)
    with pytest.raises(CourseError, match="^The network given as start has another architecture.*same depth, width"):
        encoders.train_encoder(data, "ce", epochs=1, width=8, start=loaded)
    checkpoints.save_model(tmp_path / "denoiser.safetensors", UNet(1, 2, 8, (1,), attention=(), blocks=1))
    with pytest.raises(CourseError, match="holds a UNet, not a ResNet"):
        checkpoints.load_model(tmp_path / "denoiser.safetensors", ResNet)


def test_a_frozen_stage_needs_a_head_and_a_classifier_two_classes(data):
    with pytest.raises(CourseError, match="^This network has no head to train in a second stage"):
        two_stage.finetune_head(small_moco(), data, epochs=1, augment="none", start="fresh")
    alone = replace(data, train_labels=torch.zeros(90, dtype=torch.long), class_names=("arrow",))
    with pytest.raises(CourseError, match="^A classifier needs at least two classes, and toy has 1"):
        encoders.train_encoder(alone, "ce", epochs=1)


# ------------------------------------------------------------------------------------------------------------- MoCo v2
def wave(rows, columns, phase):
    """Numbers without a random generator, the same everywhere: [rows, columns], float64."""
    return torch.sin(phase + 1.7 * torch.arange(rows).double()[:, None] + 0.9 * torch.arange(columns).double() ** 1.5)


# lightly 1.6.0, NTXentLoss(temperature, memory_bank_size=(7, 5)) of wave(6, 5, 0.3) and wave(6, 5, 0.8) with the bank
# wave(7, 5, 2.0), its rows at length 1: the loss, and its gradient in the first query.
LIGHTLY = {
    0.2: (
        1.2757529741756448,
        [-0.07111754587958835, -0.0176969692053712, 0.07785341063877342, -0.031272455491843286, -0.016404073763828006],
    ),
    0.07: (
        1.9371639085467482,
        [-0.07031020884475515, -0.01749607055979649, 0.07696960705810466, -0.030917445892222183, -0.016217852260992413],
    ),
}


@pytest.mark.parametrize("temperature", LIGHTLY)
def test_info_nce_is_lightlys(temperature):
    value, slope = LIGHTLY[temperature]
    outputs = wave(6, 5, 0.3).requires_grad_()
    keys, queue = F.normalize(wave(6, 5, 0.8), dim=1), F.normalize(wave(7, 5, 2.0), dim=1)
    loss = info_nce(F.normalize(outputs, dim=1), keys, queue, temperature)
    loss.backward()
    assert loss.item() == pytest.approx(value, rel=1e-6)
    assert outputs.grad[0].tolist() == pytest.approx(slope, rel=1e-5)


def test_info_nce_in_closed_form():
    same = F.normalize(torch.ones(5, 3), dim=1)
    assert info_nce(same, same, same.repeat(4, 1)).item() == pytest.approx(math.log(21), rel=1e-6)
    # own key at cosine 1, K others at cosine 0: log(1 + K exp(-1 / T))
    one, others = torch.eye(4)[:1].repeat(6, 1), torch.eye(4)[1:].repeat(3, 1)
    assert info_nce(one, one, others, 0.5).item() == pytest.approx(math.log(1 + 9 * math.exp(-2)), rel=1e-6)


def test_info_nce_keeps_float32_under_autocast():
    queries, keys = F.normalize(torch.randn(8, 16), dim=1), F.normalize(torch.randn(8, 16), dim=1)
    with torch.autocast("cpu", torch.bfloat16):
        inside = info_nce(queries, keys, keys)
    assert inside.dtype == torch.float32 and inside.item() == info_nce(queries, keys, keys).item()


def small_moco(**options):
    torch.manual_seed(0)
    return MoCo(ResNet(2, 1, 8, 4, mean=(0.5,), std=(0.2,)), **dict(dim=3, queue=7) | options)


def test_the_queue_is_first_in_first_out_also_across_its_end():
    model, kept = small_moco(), []
    kept += list(model.queue.clone())
    for size in (3, 3, 3, 2, 7, 5, 9):
        keys = torch.randn(size, 3)
        kept += list(keys)
        model.enqueue(keys)
        place = int(model.oldest)
        in_order = torch.cat([model.queue[place:], model.queue[:place]])
        assert torch.equal(in_order, torch.stack(kept[-7:]))
    assert torch.allclose(small_moco().queue.norm(dim=1), torch.ones(7))


def test_the_key_encoder_follows_and_gets_no_gradient():
    model = small_moco(momentum=0.9)
    with torch.no_grad():
        for weight in (*model.encoder.parameters(), *model.project.parameters()):
            weight.add_(torch.randn_like(weight))
    slow = [weight.clone() for weight in (*model.key_encoder.parameters(), *model.key_project.parameters())]
    fast = [weight.clone() for weight in (*model.encoder.parameters(), *model.project.parameters())]
    images = torch.rand(5, 1, 8, 8)
    queue = model.queue.clone()
    loss = model(images, images.flip(3))
    now = [*model.key_encoder.parameters(), *model.key_project.parameters()]
    for before, target, after in zip(slow, fast, now, strict=True):
        torch.testing.assert_close(after, 0.9 * before + 0.1 * target)
        assert not after.requires_grad
    # the loss is that of the old queue: its own keys are put there afterwards
    again = small_moco(momentum=0.9)
    again.load_state_dict(model.state_dict())
    again.train()
    expected = info_nce(again.queries(images), again.keys(images.flip(3)), queue)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert not torch.equal(model.queue, queue) and int(model.oldest) == 5
    loss.backward()
    assert all(weight.grad is None for weight in now)
    assert all(weight.grad is not None for name, weight in model.encoder.named_parameters() if "head" not in name)


def test_moco_resumes_with_its_queue_and_key_encoder(data, tmp_path, interrupted):
    options = dict(epochs=3, width=4, batch_size=32, dim=8, queue=50, seed=2)
    whole = train_moco(data, **options)
    options["checkpoint"] = tmp_path / "moco.safetensors"
    interrupted(5, lambda: train_moco(data, **options))
    halfway = checkpoints.load(options["checkpoint"])[0]
    assert int(halfway["model.oldest"]) == (90 + 64) % 50 and not torch.equal(halfway["model.queue"], whole.queue)
    resumed = train_moco(data, **options)
    assert torch.equal(weights(resumed), weights(whole)) and not resumed.training
    assert not torch.equal(weights(whole.key_encoder), weights(whole.encoder))
    assert torch.allclose(whole.queue.norm(dim=1), torch.ones(50), atol=1e-5)
    for changed in (dict(queue=60), dict(momentum=0.5), dict(temperature=0.1)):
        with pytest.raises(CourseError, match="another training.*recipe"):
            train_moco(data, **options | changed)


def test_moco_learns_to_find_the_other_view(data):
    losses = {}
    for lr in (0.0, 0.05):
        model = train_moco(
            data, epochs=12, width=4, batch_size=32, dim=8, queue=40, lr=lr, lr_schedule=lambda k, n: 1.0
        )
        torch.manual_seed(5)
        first, second = (view / 255 for view in self_supervised.two_crops(data.train_images))
        losses[lr] = info_nce(model.queries(first), model.keys(second), model.queue).item()
    assert losses[0.05] < losses[0.0] - 0.2


def test_bad_queues_are_refused(data):
    with pytest.raises(CourseError, match="queue of 90 keys would hold all of the 90 training images"):
        train_moco(data, epochs=1, width=4, queue=90)
    for options in (dict(queue=0), dict(momentum=1.5)):
        with pytest.raises(CourseError, match="at least 1 key and a momentum from 0 to 1"):
            small_moco(**options)


# -------------------------------------------------------------------------------------------------------- Barlow Twins
def test_barlow_twins_is_lightlys():
    """lightly 1.6.0, BarlowTwinsLoss() and BarlowTwinsLoss(0.1) of wave(8, 4, 0.3) and wave(8, 4, 0.9)."""
    first, second = wave(8, 4, 0.3).requires_grad_(), wave(8, 4, 0.9)
    loss = barlow_twins(first, second)
    loss.backward()
    assert loss.item() == pytest.approx(0.1540335619518932, rel=1e-6)
    slope = [-0.05573416090197814, -0.009365047904300091, 0.054443896022751105, -0.011213207725218059]
    assert first.grad[0].tolist() == pytest.approx(slope, rel=1e-5)
    assert barlow_twins(first.detach(), second, 0.1).item() == pytest.approx(0.6569574395706635, rel=1e-6)


def test_barlow_twins_in_closed_form():
    columns = torch.tensor([[1.0, 1, -1, -1], [1, -1, 1, -1], [1, -1, -1, 1]]).T.double() * 3  # uncorrelated
    assert barlow_twins(columns, columns).item() == pytest.approx(0, abs=1e-8)
    assert barlow_twins(columns, -columns).item() == pytest.approx(4 * 3, rel=1e-5)
    twice = columns[:, [0, 0]]  # a column and its repeat: two entries of 1 off the diagonal
    assert barlow_twins(twice, twice, 0.3).item() == pytest.approx(2 * 0.3, rel=1e-5)
