"""What a configuration costs, by hand for the ones that are simple enough."""

from course import cost
from course.batch.plan import plan, read_config
from lt_utils.files import REPOSITORY

PARTS = {  # configuration: image passes, counted by hand
    "cifar_ce": 200 * (12_406 + 10_847),
    "cifar_strong": 3 * 600 * (12_406 + 20_431 + 10_847 + 19_573),
    "cbdm_hours": 64 * 60_000 * (1 + 2 + 1),
    "livt": 2 * (2 * 38_000 * 512 + 3 * 3 * 3 * 9_700 * 256),
}


def test_image_passes_are_those_counted_by_hand(monkeypatch, tmp_path):
    monkeypatch.setenv("LT_DATA", str(tmp_path))  # no data set is needed
    for name, passes in PARTS.items():
        jobs = plan(read_config(REPOSITORY / "config" / f"{name}.yaml"), check_data=False)
        assert sum(map(cost.image_passes, jobs)) == passes, name


def test_days_are_never_fewer_than_those_of_the_longest_run(capsys):
    path = REPOSITORY / "config" / "cifar_strong.yaml"  # 12 runs of an hour
    assert cost.row(path, [1, 8, 64]) == ["cifar_strong.yaml", "12", "114 M", "12.0", "0.50", "0.06", "0.04"]
    assert cost.main([str(path), "--gpus", "2"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "| cifar_strong.yaml | 12 | 114 M | 12.0 | 0.25 |"
