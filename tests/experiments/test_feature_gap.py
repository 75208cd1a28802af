"""The experiment on the feature gap in small: it runs to the end, resumes, and chooses nothing on the test set."""

import json
import re
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from experiments.feature_gap import arms, experiment
from experiments.feature_gap.arms import ASIS, CROSSFIT, DIFFUSION, NONE, SPREAD_OUT, WIDENED
from experiments.feature_gap.crossfit import Ratios, unseen_ratios
from lt_utils.data import datasets
from lt_utils.features.encoding import Encoded
from lt_utils.features.statistics import class_means, class_spread
from lt_utils.features.views import Views
from lt_utils.metrics.statistics import mean_error
from lt_utils.models.heads import LinearHead


@pytest.fixture
def small(monkeypatch, tmp_path):
    """Main on 10 x 10 pixels, two-step heads and generators; returns main(test labels to roll) -> record, reference."""
    whole = datasets.load().long_tailed(counts=[104, 103, 22, 21, 20, 20, 12, 9, 7, 6])

    def main(roll: int = 0) -> tuple[dict, dict]:
        small = {name: getattr(whole, name)[:, :, 9:19, 9:19] for name in ("train_images", "test_images")}
        small["test_images"] = small["test_images"][::5]
        data = replace(whole, **small, test_labels=whole.test_labels[::5].roll(roll))
        monkeypatch.setattr(datasets, "load", lambda name: data)
        monkeypatch.setattr(datasets.ImageData, "long_tailed", lambda self, imbalance: self)
        arguments = ["--to", str(tmp_path / "run"), "--seeds", "2", "--epochs", "2", "--keep"]
        assert experiment.main(arguments) == 0
        record = json.loads((tmp_path / "run" / "record.json").read_text())
        return record, json.loads((tmp_path / f"{experiment.NAME}.json").read_text())

    monkeypatch.setattr(experiment, "REFERENCES", tmp_path)
    monkeypatch.setattr(arms, "HEAD", dict(steps=2, batch_size=64, lr=0.01))
    monkeypatch.setattr(arms, "GENERATOR", dict(steps=2, width=8, blocks=1))
    monkeypatch.setattr(arms, "FED_STEPS", 2)
    monkeypatch.setattr(arms, "SAMPLING", 2)
    monkeypatch.setattr(arms, "REFIT_EVERY", 1)
    for module in (arms, experiment):
        monkeypatch.setattr(module, "VIEWS", {"clean": 1})
    return main


def test_it_runs_resumes_and_looks_at_no_test_label_to_choose(small, capsys):
    record, kept = small()
    capsys.readouterr()
    assert len(record["rows"]) == 2 * (2 + 14 + 4)  # two seeds: no training, frozen encoder, in training
    assert {row["n"] for row in kept["rows"]} == {2} and kept["rows"][1]["minus label shift"] == "+0.00 ± 0.00"
    assert [line["group"] for line in kept["ratios"]] == ["many", "medium", "few"]
    assert "chosen on the folds" in kept["note"] and kept["differences"] == record["facts"]["differences"]
    # Wrong test labels, everything else from the checkpoints: other accuracies, the same choices.
    (again, other), printed = small(roll=100), capsys.readouterr().out
    trained = [line for line in printed.splitlines() if re.search(r"(images|features|steps)/s", line)]
    assert not trained
    for column, same in (("accuracy", False), ("folds", True), ("width", True)):
        pair = [[row.get(column) for row in one["rows"]] for one in (record, again)]
        assert (pair[0] == pair[1]) is same, column
    for column, same in (("length", True), ("spread", True), ("length test", False), ("spread test", False)):
        pair = [[row[column] for row in one["facts"]["ratios"]] for one in (record, again)]
        assert (pair[0] == pair[1]) is same, column
    chosen = [
        [(d["diffusion"], d["rival"]) for d in one["differences"] if d["rival chosen"] == "folds"]
        for one in (kept, other)
    ]
    assert chosen[0] == chosen[1] and len(chosen[0]) == 5


@pytest.mark.parametrize(("option", "value"), [("--seeds", "1"), ("--folds", "2")])
def test_too_few_for_an_error_or_a_choice_is_refused(tmp_path, capsys, option, value):
    assert experiment.main(["--to", str(tmp_path), option, value]) == 2
    assert "or more" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value"),
    [("--data", "fashion-mnist-smal"), ("--imbalance", "0.5"), ("--folds", "11"), ("--epochs", "3")],
)
def test_a_mistake_is_refused_before_an_earlier_run_is_moved_aside(tmp_path, capsys, monkeypatch, option, value):
    monkeypatch.setattr(experiment, "measure", lambda *_: pytest.fail("accepted"))
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "run.json").write_text('{"notebook": "of other parameters"}')
    assert experiment.main(["--to", str(folder), option, value]) == 2
    assert capsys.readouterr().err.count("\n") == 1 and [path.name for path in tmp_path.iterdir()] == ["run"]


def test_ctrl_c_is_one_sentence(tmp_path, capsys, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(experiment, "measure", stop)
    assert experiment.main(["--to", str(tmp_path / "run")]) == 130
    assert capsys.readouterr().out.endswith("the same command goes on from here.\n")


def test_a_difference_has_both_its_errors():
    first, second = torch.rand(3, 400) < 0.7, torch.rand(3, 400) < 0.6
    found = experiment.difference(first, second)
    by_seed = [100 * (a.double().mean() - b.double().mean()).item() for a, b in zip(first, second, strict=True)]
    assert (found["difference"], found["se"]) == tuple(round(value, 2) for value in mean_error(by_seed))
    # The same hundredth more of the images in every seed: no spread over seeds, that of a share of one percent over images.
    second = torch.zeros(3, 400)
    first = second.clone()
    first[:, :4] = 1
    assert experiment.difference(first, second) == {"difference": 1.0, "se": 0.0, "se images": 0.5}


# ------------------------------------------------------------------------------------- what knows what, on invented data
COUNTS = [120, 40, 10]  # one class in each group


def blobs(seed: int) -> Encoded:
    """Features of three classes in four dimensions, other ones for every seed."""
    torch.manual_seed(seed)
    labels, test = (torch.arange(3).repeat_interleave(torch.tensor(counts)) for counts in (COUNTS, [20, 10, 4]))
    train, held = 3 * torch.eye(3, 4)[labels] + torch.randn(170, 4), 2 * torch.eye(3, 4)[test] + torch.randn(34, 4)
    return Encoded(train, labels, held, test, torch.zeros(34, 3), LinearHead(4, 3), COUNTS)


def seen(one: Encoded, *_) -> Views:
    """The training features as the one view of every image; in place of `encode_views`."""
    return Views(one.train[None], one.train_labels, one.train_labels[None], torch.ones(1, len(one.train)))


def test_a_fold_knows_the_ratios_of_the_others_and_the_width_chosen_on_the_folds_is_used(monkeypatch, tmp_path):
    final, folds, best = blobs(0), [blobs(1), blobs(2), blobs(3)], {"Class Gaussian": 1.5, DIFFUSION: 2.0}
    known, asked = [], []

    def stage(encoded, views, ratios, *_):
        """A stage that is right everywhere at the best width of a method, and says class 0 at another one."""
        known.append(ratios)

        def logits(method, correction, width=1.0):
            if encoded is final and correction == WIDENED:
                asked.append((method, width))
            right = width == best[method]
            return F.one_hot(encoded.test_labels if right else torch.zeros_like(encoded.test_labels), 3)

        return SimpleNamespace(added=best, logits=logits)

    monkeypatch.setattr(arms, "encode_views", seen)
    monkeypatch.setattr(arms, "stage", stage)
    found, table = arms.frozen_rows(final, folds, "clean", 0, lambda name: tmp_path / name)
    for own, allowed in zip(known, ([0, 1, 2], [1, 2], [0, 2], [0, 1]), strict=True):
        expected = unseen_ratios([(seen(folds[k]), folds[k]) for k in allowed], COUNTS)
        assert torch.equal(own.length, expected.length) and torch.equal(own.spread, expected.spread), allowed
    told = unseen_ratios([(seen(final), final)], COUNTS)
    for name, ratios in (("", known[0]), (" test", told)):
        for what in ("length", "spread"):
            assert [row[what + name] for row in table] == pytest.approx(getattr(ratios, what).tolist(), abs=6e-4)
    assert asked == list(best.items())
    for method, width in best.items():
        assert found["clean", method, WIDENED][1:] == (100.0, width)


@pytest.fixture
def fitted(monkeypatch):
    """What `fit_head` was given for a method, a correction and a width: fitted(method, ...) -> views, added features, tau."""
    data, ratios = blobs(0), Ratios(torch.tensor([0.9, 0.7, 0.5]), torch.tensor([1.1, 1.5, 3.0]))
    own, none = (data.train + 0.1, data.train_labels), (data.train[:0], data.train_labels[:0])
    stage = arms.Stage(data, seen(data), ratios, {NONE: none, "Resampled real": own}, COUNTS, 0)
    given = []

    def fit(views, encoded, *, added, tau, **_):
        given.append((views.features[0], added[0], tau))
        return SimpleNamespace(head=LinearHead(4, 3))

    def fitted(*arm):
        stage.logits(*arm)
        return given.pop()

    monkeypatch.setattr(arms, "fit_head", fit)
    return fitted


@pytest.mark.parametrize("arm", [(ASIS,), (CROSSFIT,)])
def test_without_added_features_the_prior_is_inside_the_loss_and_with_them_it_is_not(fitted, arm):
    assert fitted(NONE, *arm)[2] == 1.0 and fitted("Resampled real", *arm)[2] == 0.0


def test_the_correction_moves_and_widens_the_real_and_the_added_features_alike(fitted):
    data = blobs(0)
    plain, added, _ = fitted("Resampled real", ASIS)
    torch.testing.assert_close(plain, data.train)
    torch.testing.assert_close(added, data.train + 0.1)
    views, moved, _ = fitted("Resampled real", CROSSFIT)
    means = class_means(data.train, data.train_labels, 3)
    length, spread = torch.tensor([[0.9], [0.7], [0.5]]), torch.tensor([1.1, 1.5, 3.0])
    target = means.mean(0) + length * (means - means.mean(0))
    torch.testing.assert_close(class_means(views, data.train_labels, 3), target)
    # The added ones lie 0.1 beside the real ones; around the real means, that grows with the spread.
    torch.testing.assert_close(class_means(moved, data.train_labels, 3), target + 0.1 * spread[:, None])
    for features in (views, moved):
        before, after = (class_spread(one, data.train_labels, 3) for one in (data.train, features))
        torch.testing.assert_close(after / before, spread)


def test_the_width_is_that_of_the_added_medium_and_few_features_alone(fitted):
    data = blobs(0)
    views, wide, _ = fitted("Resampled real", WIDENED, 2.0)
    torch.testing.assert_close(views, data.train)
    before, after = (class_spread(one, data.train_labels, 3) for one in (data.train, wide))
    torch.testing.assert_close(after / before, torch.tensor([1.0, 2.0, 2.0]))


def test_diffusion_is_drawn_once_plain_and_once_with_negative_guidance(monkeypatch, tmp_path):
    data, drawn = blobs(0), []

    def generate(features, wanted, omega, **_):
        drawn.append(omega)
        return features[:1].repeat(len(wanted), 1)

    def train(features, *_, **__):
        return SimpleNamespace(generate=partial(generate, features))

    monkeypatch.setattr(arms, "train_feature_diffusion", train)
    made = arms.stage(data, seen(data), Ratios(torch.ones(3), torch.ones(3)), COUNTS, 0, tmp_path / "generator")
    assert drawn == [0.0, -0.3] and list(made.added)[-2:] == [DIFFUSION, SPREAD_OUT]
    assert {name: len(labels) for name, (_, labels) in made.added.items()} == {
        name: 0 if name == NONE else 190 for name in made.added
    }


def test_a_fold_is_shifted_by_its_own_counts(monkeypatch, tmp_path):
    """Two folds whose logits say nothing: only the counts of each fold, not those of the whole set, tell its class."""
    folds = [
        replace(blobs(0), test_logits=torch.zeros(5, 2), test_labels=torch.full((5,), c), counts=counts)
        for c, counts in enumerate(([1, 3], [3, 1]))
    ]
    whole = SimpleNamespace(name="two", counts=[4, 4], test_labels=torch.tensor([0, 1]))
    monkeypatch.setattr(experiment, "VIEWS", {})
    monkeypatch.setattr(experiment, "train_encoder", lambda *_, **__: None)
    monkeypatch.setattr(experiment, "encode_data", lambda *_: replace(blobs(0), test_logits=torch.zeros(2, 2)))
    monkeypatch.setattr(experiment, "fold_encoders", lambda *_, **__: folds)
    monkeypatch.setattr(arms, "trained_rows", lambda *_: {})
    run = SimpleNamespace(path=tmp_path, checkpoint=lambda name: tmp_path / name)
    rows, *_ = experiment.measure(whole, run, seeds=[0], folds=2, epochs=4)
    assert {row["method"]: row["folds"] for row in rows} == {"CE": 50.0, "Label shift": 100.0}
