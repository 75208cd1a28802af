"""The encoders that come with the course: what notebook 03 would train, taken for exactly its recipe and for no other."""

import itertools
import shutil
from types import SimpleNamespace

import pytest
import torch

from lt_utils.data import datasets
from lt_utils.files import REPOSITORY, read_json, read_yaml, write_json
from lt_utils.hashing import fingerprint
from lt_utils.metrics.recognition import accuracy
from lt_utils.models.pretrained import FOLDER, load_pretrained, pretrained_card
from lt_utils.models.resnet import encode
from lt_utils.recognition import encoder_recipe, pretrained_encoder, train_encoder
from lt_utils.runs.parameters import declared, notebook_path
from lt_utils.training import lr_schedules

pytestmark = pytest.mark.usefixtures("on_the_cpu")
SHIPPED = {
    "CE": ("ce-mixup", (0, 1, 2)),
    "CE without mixup": ("ce", (0, 1, 2)),
    "WCDAS": ("wcdas", (0, 1, 2)),
}
CIFAR = ("cifar10", "cifar100")
TOLERANCE = 0.05  # relative, of the losses: as for the golden run, processors and bfloat16 round otherwise


@pytest.fixture(scope="module")
def data():
    return datasets.load().long_tailed(100)


def notebook_recipe(method: str, seed: int) -> dict:
    """Keywords of train_encoder as the defaults of notebook 03 give them."""
    told = declared(notebook_path("03_encoders"))
    recipe = dict(depth=told["DEPTH"], width=told["WIDTH"], lr_schedule=getattr(lr_schedules, told["SCHEDULE"]))
    names = {"epochs": "EPOCHS", "batch_size": "BATCH", "lr": "RATE", "weight_decay": "DECAY"}
    prefix = "WCDAS_" if method == "WCDAS" else ""
    recipe |= {key: told[prefix + name] for key, name in names.items()}
    if method == "WCDAS":
        recipe |= {"augment": told["WCDAS_AUGMENT"], "nesterov": told["WCDAS_NESTEROV"]}
    return recipe | {"method": SHIPPED[method][0], "seed": seed}


def options_of(name: str) -> dict:
    """Keywords of train_encoder from the card of a shipped encoder."""
    recipe = {key: value for key, value in pretrained_card(name)["recipe"].items() if key != "data"}
    return recipe | {"lr_schedule": getattr(lr_schedules, recipe["lr_schedule"])}


def test_the_defaults_of_notebook_03_find_all_that_is_shipped(data):
    for method, (_, seeds) in SHIPPED.items():
        for seed in seeds:
            model, card = pretrained_encoder(data, **notebook_recipe(method, seed))
            assert card["name"] == (name := f"{method.lower().replace(' ', '-')}-seed{seed}")
            assert fingerprint(model) == fingerprint(load_pretrained(name)[0]) and not model.training
    assert pretrained_encoder(data, **notebook_recipe("CE", 3)) is None


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 3},
        {"epochs": 14},
        {"batch_size": 32},
        {"lr": 0.2},
        {"weight_decay": 1e-4},
        {"lr_schedule": lr_schedules.multistep},
        {"augment": "autoaugment"},
        {"alpha": 0.4},
        {"nesterov": False},
        {"depth": 14},
        {"width": 8},
        {"method": "logit-adjusted"},
    ],
    ids=lambda other: next(iter(other)),
)
def test_another_recipe_takes_none(data, other):
    assert pretrained_encoder(data, **notebook_recipe("CE", 1) | other) is None


def test_one_of_ones_own_is_found_by_its_recipe(data, tmp_path, monkeypatch):
    monkeypatch.setenv("LT_DATA", str(tmp_path))
    recipe = notebook_recipe("CE", 7)
    assert pretrained_encoder(data, **recipe) is None
    (tmp_path / "trained").mkdir()
    card = read_json(FOLDER / "ce-seed1.json") | {"name": "mine", "recipe": encoder_recipe(data, **recipe)}
    write_json(tmp_path / "trained" / "mine.json", card)
    shutil.copy(FOLDER / "ce-seed1.safetensors", tmp_path / "trained" / "mine.safetensors")
    assert pretrained_encoder(data, **recipe)[1]["name"] == "mine"
    assert pretrained_encoder(data, **notebook_recipe("CE", 1))[1]["name"] == "ce-seed1"


def test_other_data_take_none_and_what_says_the_same_in_other_words_is_the_same(data):
    recipe = notebook_recipe("CE", 1)
    whole = datasets.load()
    for cut in (whole.long_tailed(10), whole.long_tailed(100, seed=1), whole):
        assert pretrained_encoder(cut, **recipe) is None
    assert encoder_recipe(data, **recipe | {"alpha": 0.5, "title": "x"}) == encoder_recipe(data, **recipe)
    assert encoder_recipe(data, "ce-mixup", epochs=15, seed=1) == encoder_recipe(data, **recipe)


@pytest.mark.parametrize("name", ["ce-seed1", "ce-without-mixup-seed2", "wcdas-seed0"])
def test_training_it_again_begins_with_the_losses_of_its_card(name, data, monkeypatch):
    stored = torch.tensor(pretrained_card(name)["losses"]["first_steps"])

    class Enough(Exception):
        pass

    def first_losses(**other) -> torch.Tensor:
        losses = []

        def listen(steps, *_, **__):
            losses.extend(step.loss for step in itertools.islice(steps, len(stored)))
            raise Enough

        monkeypatch.setattr("lt_utils.training.loop.track", listen)
        with pytest.raises(Enough):
            train_encoder(data, **options_of(name) | other)
        return torch.tensor(losses)

    same, other = first_losses(), first_losses(seed=options_of(name)["seed"] + 1)
    assert same.tolist() == pytest.approx(stored.tolist(), rel=TOLERANCE)
    assert 3 * (same - stored).norm() < (other - stored).norm()  # and they are those of this seed


def test_it_recognises_what_its_card_says(data):
    model, card = load_pretrained("wcdas-seed0", data=data)
    found = accuracy(encode(model, data.test_images)[1], data.test_labels)
    assert found == pytest.approx(card["measures"]["accuracy_on_test_images"], abs=0.2)
    assert len(card["losses"]["epochs"]) == card["recipe"]["epochs"] and card["steps"] == 15 * 39


@pytest.mark.parametrize("name", CIFAR)
def test_the_laptop_batch_asks_for_the_encoders_of_cifar(name):
    """Told by their cards, since CIFAR is not here."""
    asked, card = read_yaml(REPOSITORY / "config" / "cifar_laptop.yaml"), pretrained_card(f"{name}-ce-seed0")
    assert f"{name}-ldmlr" in asked["datasets"] and card["data"]["imbalance"] in asked["imbalances"]
    for notebook in asked["notebooks"].values():
        told = notebook["parameters"]
        recipe = dict(epochs=told["ENCODER_EPOCHS"], depth=told["ENCODER_DEPTH"], seed=asked["seeds"][0])
        assert encoder_recipe(SimpleNamespace(key=card["data"]["key"]), "ce-mixup", **recipe) == card["recipe"]


@pytest.mark.parametrize("name", CIFAR)
def test_on_cifar_they_recognise_what_their_cards_say(name):
    if not datasets.file_of(f"{name}-ldmlr").is_file():
        pytest.skip(f"{name}-ldmlr is not prepared: python -m data_prep {name}-ldmlr")
    tail = datasets.load(f"{name}-ldmlr").long_tailed(100)
    model, card = pretrained_encoder(tail, "ce-mixup", epochs=100, depth=32, seed=0)
    found = accuracy(encode(model, tail.test_images)[1], tail.test_labels)
    assert card["name"] == f"{name}-ce-seed0"
    assert found == pytest.approx(card["measures"]["accuracy_on_test_images"], abs=0.2)
