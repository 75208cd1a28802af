"""The batch, on small notebooks with the course's names: resume after kill, a failing branch, refusals, the report."""

import base64
import copy
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from course import gates
from course.batch import execute, launch, monitor, pages, plan, report
from course.batch.launch import main, run
from lt_utils import files
from lt_utils.errors import CourseError
from lt_utils.files import REPOSITORY

DATA = "fashion-mnist-small"
RUN = f"{DATA}-if100-seed0"
PARAMETERS = {"DATASET": DATA, "IMBALANCE": 100, "SEED": 0, "WAIT": 0.0, "RUN": ""}
OPEN = "import time\nfrom lt_utils.runs import open_run\nrun = open_run({name!r}, globals())"
WORK = """(run.path / "began").write_text(str(time.time()))
time.sleep(WAIT)
run.finish([{{"method": "CE", "data": DATASET, "imbalance": IMBALANCE, "seed": SEED, "accuracy": 70.0 + SEED}}])"""
FAIL = "from lt_utils.errors import CourseError\nraise CourseError('the tail is empty: lower the imbalance')"


@pytest.fixture
def course(tmp_path, monkeypatch, notebook):
    """A folder with five small notebooks and none run yet; returns a function that writes a configuration."""
    monkeypatch.setenv("LT_NOTEBOOKS", str(tmp_path / "notebooks"))
    monkeypatch.setenv("LT_RUNS", str(tmp_path / "runs"))
    monkeypatch.delenv("MAKELEVEL", raising=False)
    monkeypatch.chdir(tmp_path)
    names = ("00_start_here", "01_long_tailed_data", "03_encoders", "04_ddpm_from_scratch", "07_latent_diffusion")
    for name in names:
        notebook(tmp_path / "notebooks" / f"{name}.ipynb", PARAMETERS, OPEN.format(name=name), WORK.format())

    def configuration(notebooks: dict, **more: object) -> Path:
        content = {"profile": "tiny", "datasets": [DATA], "seeds": [0], "notebooks": notebooks} | more
        path = tmp_path / "tiny.yaml"
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return path

    return configuration


def finished() -> dict[str, str]:
    """Run -> when it finished, of all the runs that are complete and not moved aside."""
    found = {}
    for path in Path("runs/tiny").glob("*/*/batch.json"):
        if ".old-" not in path.parent.name:
            found[f"{path.parts[-3][:2]} {path.parent.name}"] = json.loads(path.read_text())["finished"]
    return found


def start(config: Path) -> subprocess.Popen:
    """The batch as a process of its own, its words in batch.out."""
    with open("batch.out", "w") as out:
        return subprocess.Popen([sys.executable, "-m", "course", "run", config], stdout=out, stderr=out)


def is_free(folder: Path) -> bool:
    """Whether no process holds the lock of a run folder."""
    try:
        files.lock(folder)
    except CourseError:
        return False
    files.unlock(folder)
    return True


def wait_for(condition, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, Path("batch.out").read_text()
        time.sleep(0.1)


@pytest.mark.parametrize("wish", ["", "3"])
def test_every_notebook_gets_its_share_of_the_cores(wish, course, notebook, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", wish)
    monkeypatch.setattr(launch, "cores", lambda: 4)
    name = "01_long_tailed_data"
    tell = "import os\nrun.finish([], threads=os.environ['OMP_NUM_THREADS'])"
    notebook(tmp_path / "notebooks" / f"{name}.ipynb", PARAMETERS, OPEN.format(name=name), tell)
    assert main([str(course({name: {}})), "--jobs", "2"]) == 0
    assert json.loads(Path(f"runs/tiny/{name}/{RUN}/record.json").read_text())["facts"]["threads"] == (wish or "2")


def test_folders_given_relative_are_the_same_for_every_process(course, notebook, tmp_path, monkeypatch):
    for name in ("DATA", "RUNS", "NOTEBOOKS"):
        monkeypatch.setenv(f"LT_{name}", name.lower())
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "own.npz").touch()  # enough to be known by name
    name = "01_long_tailed_data"
    tell = "from lt_utils.data import datasets\nrun.finish([], names=datasets.names(), data=datasets.data_folder())"
    notebook(tmp_path / "notebooks" / f"{name}.ipynb", PARAMETERS, OPEN.format(name=name), tell)
    assert main([str(course({name: {}}, datasets=["own"]))]) == 0
    facts = json.loads(Path(f"runs/tiny/{name}/own-if100-seed0/record.json").read_text())["facts"]
    assert facts == {"names": [DATA, "own"], "data": str(tmp_path / "data")}


DRAW = """from lt_utils.viz import figures
figures.style()
figures.plt.plot([0, 1])
figures.plt.show()"""


def foreign_kernel(folder: Path) -> Path:
    """A Jupyter folder whose kernel python3 is a program that ends at once."""
    spec = {"argv": ["false", "{connection_file}"], "display_name": "Python 3", "language": "python"}
    (folder / "kernels" / "python3").mkdir(parents=True)
    (folder / "kernels" / "python3" / "kernel.json").write_text(json.dumps(spec))
    return folder


def test_the_shell_chooses_neither_kernel_nor_backend_nor_whether_asserts_run(course, notebook, tmp_path, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.setenv("JUPYTER_PATH", str(foreign_kernel(tmp_path / "elsewhere")))
    monkeypatch.setenv("PYTHONOPTIMIZE", "1")
    name = "01_long_tailed_data"
    check = "try:\n    assert False, 'an assert'\nexcept AssertionError:\n    run.finish([])"
    notebook(tmp_path / "notebooks" / f"{name}.ipynb", PARAMETERS, OPEN.format(name=name), DRAW, check)
    assert main([str(course({name: {}}))]) == 0
    executed = json.loads(Path(f"runs/tiny/{name}/{RUN}/notebook.ipynb").read_text())
    assert len(gates.figures_of(executed)) == 1


def test_folders_with_braces_below_the_home_and_a_terminal_that_is_not_utf8(course, notebook, tmp_path):
    """What papermill and Snakemake would fill in, a shell that leaves ~ as it is, and signs that ASCII does not have."""
    config = course({"01_long_tailed_data": {}})
    (tmp_path / "notebooks").rename(tmp_path / "{SEED} {x}")
    shell = {"HOME": str(tmp_path), "LT_RUNS": "~/runs {y}", "LT_NOTEBOOKS": "~/{SEED} {x}"}
    shell |= {"PYTHONIOENCODING": "ascii", "PYTHONOPTIMIZE": "2"}
    command = [sys.executable, "-m", "course", "run", str(config)]
    done = subprocess.run(command, env=os.environ | shell, capture_output=True, encoding="ascii")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "about" in done.stdout and "Traceback" not in done.stderr
    assert (tmp_path / "runs {y}" / "tiny" / "01_long_tailed_data" / RUN / "notebook.ipynb").exists()
    assert not (tmp_path / "~").exists()


def test_a_run_without_its_figures_fails(course, notebook, tmp_path, capsys):
    name = "01_long_tailed_data"
    lose = "import matplotlib.pyplot as plt\nplt.switch_backend('agg')\nplt.plot([0, 1]);"
    path = notebook(tmp_path / "notebooks" / f"{name}.ipynb", PARAMETERS, OPEN.format(name=name), lose, WORK.format())
    content = json.loads(path.read_text())
    picture = {"output_type": "display_data", "metadata": {}, "data": {"image/png": "cGljdHVyZQ=="}}
    content["cells"][3]["outputs"] = [picture] * 5  # as the repository has it: five figures
    path.write_text(json.dumps(content))
    assert main([str(course({name: {}}))]) == 1
    assert "01_long_tailed_data: 0 figures, and the notebook makes 3 at least" in capsys.readouterr().out
    folder = Path(f"runs/tiny/{name}/{RUN}")
    assert (folder / "failed.ipynb").exists() and not (folder / "notebook.ipynb").exists()


def test_threads_that_are_no_number_are_refused_in_a_sentence(course, monkeypatch, capsys):
    monkeypatch.setenv("OMP_NUM_THREADS", "all")
    assert main([str(course({"01_long_tailed_data": {}}))]) == 2
    assert (
        "OMP_NUM_THREADS, the threads of one notebook, must be a whole number above 0, not 'all'"
        in capsys.readouterr().err
    )


def test_a_failing_branch_then_mended_and_changed(course, notebook, tmp_path, capsys, monkeypatch):
    broken = tmp_path / "notebooks" / "03_encoders.ipynb"
    good = broken.read_bytes()
    notebook(broken, PARAMETERS, OPEN.format(name=broken.stem), FAIL)
    notebooks = {"01_long_tailed_data": {"seeds": [0, 1]}, "03_encoders": {}, "07_latent_diffusion": {}}
    one, other = f"01 {RUN}", f"01 {RUN[:-1]}1"

    assert main([str(course(notebooks))]) == 1  # 01 went on, 07 builds on 03 and did not start
    said = capsys.readouterr().out
    before = finished()
    assert set(before) == {one, other}
    folder = Path("runs/tiny/03_encoders") / RUN
    assert re.search("03_encoders FAILED after .* s: CourseError: the tail is empty: lower the imbalance\n", said)
    assert f"failed.ipynb and log.txt in {folder}\n" in said
    assert "2 notebook runs finished, 1 failed, 1 not started, because they build on those:" in said
    assert "the tail is empty" in (folder / "log.txt").read_text() and (folder / "failed.ipynb").exists()
    assert not (folder / "notebook.ipynb").exists()

    folders = [Path(f"runs/tiny/01_long_tailed_data/{RUN[:-1]}{seed}") for seed in (0, 1)]
    records = [json.loads((folder / "record.json").read_text()) for folder in folders]
    assert [record["rows"][0]["accuracy"] for record in records] == [70, 71]  # SEED reached the notebook
    assert [record["parameters"]["SEED"] for record in records] == [0, 1]
    about = json.loads((folders[0] / "batch.json").read_text())
    assert about["versions"]["python"] and "commit" in about and about["seconds"] > 0
    assert yaml.safe_load((folders[0] / "parameters.yaml").read_text()) == PARAMETERS | {
        "RUN": f"tiny/01_long_tailed_data/{RUN}"
    }
    assert str(tmp_path) not in (folders[0] / "notebook.ipynb").read_text()

    broken.write_bytes(good)  # mended; and one run of 01 is to have another parameter
    notebooks["01_long_tailed_data"] = {"seeds": [0], "parameters": {"WAIT": 0.1}}
    config = course(notebooks)
    assert main([str(config)]) == 0
    said = capsys.readouterr().out
    after = finished()
    assert set(after) == {one, other, f"03 {RUN}", f"07 {RUN}"}
    assert after[other] == before[other] and after[one] != before[one]
    aside = folders[0].with_name(f"{RUN}.old-1")
    assert (aside / "notebook.ipynb").exists() and (aside / "record.json").exists()  # nothing was lost
    assert "3 notebook runs to do" in said and re.search(r"\[3/3\] 07_latent_diffusion finished in \d+ s\n", said)
    assert said.endswith("Report: runs/tiny/index.html\n")

    for path in (tmp_path / "notebooks").glob("*.ipynb"):  # a fresh checkout: new times, the same code, other words
        content = json.loads(path.read_text())
        content["cells"][0]["source"] = "# Other words\n"
        path.write_text(json.dumps(content))
    begin = time.monotonic()
    assert main([str(config)]) == 0
    assert capsys.readouterr().out.endswith("Nothing to do: all 3 runs are finished. Report: runs/tiny/index.html\n")
    assert time.monotonic() - begin < 15 and finished() == after

    monkeypatch.setattr(
        launch, "package_hash", lambda: "of another state"
    )  # a changed package repeats nothing by itself
    assert main([str(config)]) == 0 and finished() == after
    assert capsys.readouterr().out.startswith("Note: lt_utils has changed since 3 of these runs; AGAIN=1 (--again)")

    page = Path("runs/tiny/index.html").read_text()
    links = re.findall(r'href="([^"]+)"', page)
    assert len(links) == 9 and all((Path("runs/tiny") / link).exists() for link in links)
    assert "<td>CE</td>" in page


def test_what_changed_is_repeated_with_all_that_builds_on_it_and_nothing_else(course, tmp_path, capsys):
    def changed(config: Path) -> set[str]:
        """The notebooks that a batch repeats."""
        before = stamps()
        assert main([str(config)]) == 0
        return {run[:2] for run, stamp in stamps().items() if stamp != before.get(run)}

    def stamps() -> dict[str, int]:
        paths = Path("runs/tiny").glob("[0-9]*/*-seed0/batch.json")
        return {path.parts[-3]: path.stat().st_mtime_ns for path in paths}

    def edit(notebook: str, cell: int, text: str) -> None:
        path = tmp_path / "notebooks" / f"{notebook}.ipynb"
        content = json.loads(path.read_text())
        content["cells"][cell]["source"] = text
        path.write_text(json.dumps(content))

    notebooks = {"03_encoders": {}, "04_ddpm_from_scratch": {}, "07_latent_diffusion": {}}
    assert changed(course(notebooks)) == {"03", "04", "07"}
    edit("03_encoders", 0, "# Other words\n")  # repeats nothing
    notebooks["07_latent_diffusion"] = {"parameters": {"WAIT": 0.1}}
    assert changed(course(notebooks)) == {"07"}

    name = "03_encoders"
    edit(name, 2, OPEN.format(name=name) + "  # other code")
    only = course({name: {}})
    assert changed(only) == {"03"}  # 07 builds on it and is not asked for: the next batch has to notice
    assert changed(course(notebooks)) == {"07"}
    edit(name, 2, OPEN.format(name=name))
    assert changed(course(notebooks)) == {"03", "07"}

    shutil.rmtree("runs/tiny/.snakemake")  # lost with a copy of the folder, say
    capsys.readouterr()
    assert changed(course(notebooks)) == set()
    assert "[3/3] 07_latent_diffusion was finished already" in capsys.readouterr().out


def test_stopped_and_killed_in_the_middle(course):
    slow = course({"01_long_tailed_data": {}, "04_ddpm_from_scratch": {"parameters": {"WAIT": 600.0}}})
    began = Path("runs/tiny/04_ddpm_from_scratch") / RUN / "began"

    running = start(slow)
    wait_for(began.exists)
    with pytest.raises(CourseError, match=rf"Another run \(process {running.pid} on \S+\) is writing"):
        run(slow)
    before = finished()
    assert set(before) == {f"01 {RUN}"}
    running.send_signal(signal.SIGINT)
    assert running.wait(60) == 130
    assert (
        Path("batch.out").read_text().endswith("Stopped. What is finished stays; the same command goes on from here.\n")
    )

    mark = began.read_text()
    running = start(slow)
    wait_for(lambda: began.read_text() not in ("", mark))  # the same folder goes on: nothing was moved aside
    assert not began.parent.with_name(RUN + ".old-1").exists()
    running.send_signal(signal.SIGKILL)
    running.wait()
    wait_for(lambda: is_free(began.parent), seconds=30)  # its kernel is gone, too

    config = course({"01_long_tailed_data": {}, "04_ddpm_from_scratch": {"parameters": {"WAIT": 0.1}}})
    assert main([str(config)]) == 0
    after = finished()
    assert after[f"01 {RUN}"] == before[f"01 {RUN}"] and f"04 {RUN}" in after


@pytest.mark.parametrize(
    ("given", "understood"),
    [
        ("--jobs 20 -- --profile profiles/slurm", (20, False, ["--profile", "profiles/slurm"])),
        ("--again --", (1, True, [])),
        ("-- --jobs 3 --quiet", (1, False, ["--jobs", "3", "--quiet"])),
        ("", (1, False, [])),
    ],
)
def test_what_follows_two_hyphens_goes_to_snakemake(given, understood, monkeypatch):
    seen = []
    monkeypatch.setattr(launch, "run", lambda *told: seen.append(told) or 0)
    words = given.split()
    end = words.index("--") if "--" in words else len(words)
    assert main(["tiny.yaml", *words]) == 0
    assert main([*words[:end], "tiny.yaml", *words[end:]]) == 0  # ours may also come before the configuration
    assert seen == [(Path("tiny.yaml"), *understood)] * 2


@pytest.mark.parametrize(
    ("notebooks", "more", "sentence"),
    [
        (
            {"03_encoders": {"parameters": {"WAITT": 1}}},
            {},
            "03_encoders: unknown parameter WAITT: did you mean WAIT[?]",
        ),
        ({"03_encoders": {"parameters": {"WAIT": "long"}}}, {}, "03_encoders: parameter WAIT must be a number"),
        *[
            ({"03_encoders": {"parameters": {"WAIT": value}}}, {}, f"03_encoders: parameter WAIT must be .*{words}")
            for value, words in ((-1, "from 0, not -1"), (float("nan"), "not nan"), ("1e-3", "YAML wants 1.0e-3"))
        ],
        ({"03_encoder": {}}, {}, "Unknown notebook '03_encoder'. Did you mean '03_encoders'"),
        ({"03_encoders": {"parameter": {}}}, {}, "Unknown key of 03_encoders in the configuration 'parameter'"),
        ({"03_encoders": {}}, {"dataset": []}, "Unknown key of the configuration 'dataset'"),
        ({"03_encoders": {}}, {"seeds": 3}, "seeds must be a list with at least one entry, not 3"),
        ({"03_encoders": {}}, {"imbalances": ["100"]}, "imbalances must be numbers"),
        *[
            ({"03_encoders": {}}, {"gpu": gpu}, f"gpu must be a whole number, 0 or more: .*, not {gpu!r}")
            for gpu in (None, "many", -1, 0.5, True)
        ],
        *[
            ({"03_encoders": {}}, {"profile": name}, "must have the keys profile")
            for name in (3, "", "../../x", "/abs")
        ],
        *[
            ({"03_encoders": {}}, {"seeds": [seed]}, "seeds must be whole numbers from 0 to 1000000000, not")
            for seed in (-1, 0.5, 10**9 + 1, 20261122180000)
        ],
        *[
            (
                {"03_encoders": {}},
                {key: twice},
                f"{key} must not repeat an entry, but {twice[-1]!r} is there more than once",
            )
            for key, twice in {"seeds": [0, 1, 0], "datasets": [DATA, DATA], "imbalances": [10, 10.0]}.items()
        ],
        ({"03_encoders": {"seeds": [2, 2]}}, {}, "seeds must not repeat an entry, but 2 is there more than once"),
        *[({"03_encoders": {}}, {"imbalances": [f]}, "imbalances must be numbers from 1") for f in (0.5, float("inf"))],
        ({"03_encoders": {}}, {"datasets": [["a"]]}, "datasets must be names of data sets"),
        ({"03_encoders": 3}, {}, "03_encoders must be `name: value` pairs, not 3"),
        ({"03_encoders": {"parameters": ["WAIT"]}}, {}, "parameters of 03_encoders must be `name: value` pairs"),
        ({"03_encoders": {"parameters": "WAIT"}}, {}, "parameters of 03_encoders must be `name: value` pairs"),
        ({"03_encoders": {"parameters": {3: 1}}}, {}, "03_encoders: unknown parameter 3"),
        ({"03_encoders": {"by_dataset": [DATA]}}, {}, "by_dataset of 03_encoders must be `name: value` pairs"),
        ({"03_encoders": {"by_dataset": {DATA: 3}}}, {}, f"by_dataset of 03_encoders, {DATA}, must be"),
        ({"03_encoders": {"by_dataset": {DATA[:-1]: {}}}}, {}, f"Unknown data set under by_dataset .* mean '{DATA}'"),
        *[
            ({"03_encoders": {"parameters": {name: PARAMETERS[name]}}}, {}, f"03_encoders: {name} cannot be set under")
            for name in ("DATASET", "IMBALANCE", "SEED", "RUN")
        ],
        ({"03_encoders": {"by_dataset": {DATA: {"SEED": 5}}}}, {}, "03_encoders: SEED cannot be set under"),
        ({"00_start_here": {"once": True, "parameters": {"RUN": "x"}}}, {}, "00_start_here: RUN cannot be set under"),
        ({"00_start_here": {}}, {}, "00_start_here needs once: true"),
        ({"03_encoders": {"once": True}}, {}, "03_encoders runs for each data set and seed: take once out"),
        *[
            ({"03_encoders": {"seconds": s}}, {}, "03_encoders: seconds must be a number")
            for s in ("fast", [1], 0, None)
        ],
        ({"03_encoders": {}}, {"datasets": ["fashion-mnist-smal"]}, "Unknown data set .* Known: fashion-mnist-small"),
        (
            {"03_encoders": {}},
            {"datasets": ["cifar10"]},
            "Not prepared yet: cifar10 .* python -m data_prep cifar10 first",
        ),
    ],
)
def test_a_bad_configuration_is_refused_before_anything_runs(course, monkeypatch, capsys, notebooks, more, sentence):
    monkeypatch.setenv("LT_DATA", "no-data-here")
    assert main([str(course(notebooks, **more))]) == 2
    said = capsys.readouterr().err
    assert re.search(sentence, said) and said.count("\n") == 1
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            'CourseError in file "/x/Snakefile", line 18:\nNot prepared yet: cifar10; run this first.\n'
            '  File "/x/Snakefile", line 18, in <module>\n  File "/x/lt_utils/plan.py", line 104, in plan\n',
            "Not prepared yet: cifar10; run this first.",
        ),
        (
            'MissingInputException in rule all in file "/x/Snakefile", line 52:\nMissing input files for rule all:\n    a.json\n',
            "Missing input files for rule all: a.json",
        ),
        (
            "usage: snakemake\nsnakemake: error: unrecognized arguments: --sumary\n",
            "snakemake: error: unrecognized arguments: --sumary",
        ),
        ("\n", "it said nothing"),
    ],
)
def test_what_snakemake_complains_of_is_told_without_its_traceback(text, sentence):
    assert launch.error_summary(text) == sentence


@pytest.mark.parametrize(
    ("notebooks", "options", "sentence"),
    [
        ({"03_encoders": {}}, ["--sumary"], "__main__.py: error: unrecognized arguments: --sumary"),
        (
            {"03_encoders": {}, "07_latent_diffusion": {"seeds": [1]}},
            [],
            "Missing input files for rule latent_diffusion:",
        ),
    ],
)
def test_a_mistake_that_only_snakemake_meets_is_one_sentence(course, capsys, notebooks, options, sentence):
    assert main([str(course(notebooks)), "--", *options]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"Snakemake cannot plan the batch: {sentence}") and said.count("\n") == 1


def test_a_missing_or_broken_configuration_is_one_sentence(course, capsys):
    assert main(["nowhere.yaml"]) == 2
    Path("broken.yaml").write_text("a: [1")
    assert main(["broken.yaml"]) == 2
    Path("latin.yaml").write_bytes("profile: größe".encode("latin-1"))
    assert main(["latin.yaml"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 3 and said[0].startswith("nowhere.yaml cannot be read")
    assert "not valid YAML" in said[1] and "not valid YAML" in said[2]


@pytest.mark.parametrize(
    ("text", "key", "lines"),
    [
        ("profile: a\nseeds: [0]\nnotebooks: {}\nseeds: [1]", "seeds", "2 and 4"),
        ("notebooks:\n  03_encoders: {seconds: 1}\n  03_encoders:\n    seconds: 2", "03_encoders", "2 and 3"),
        ("notebooks: {03_encoders: {parameters: {RUNS: 1, RUNS: 3}}}", "RUNS", "1 and 1"),
    ],
)
def test_a_key_given_twice_is_refused_with_its_lines(tmp_path, capsys, text, key, lines):
    path = tmp_path / "twice.yaml"
    path.write_text(text)
    assert main([str(path)]) == 2
    assert capsys.readouterr().err == f"{path} has the key {key} twice, in lines {lines}: take one out.\n"


def test_what_two_mappings_share_is_not_given_twice(tmp_path):
    path = tmp_path / "shared.yaml"
    path.write_text("one:\n  first: &first {a: 1}\n  second: &second {<<: *first, a: 2}\nother: {<<: *second, b: 3}")
    assert files.read_yaml(path) == {"one": {"first": {"a": 1}, "second": {"a": 2}}, "other": {"a": 2, "b": 3}}


@pytest.mark.parametrize("written, name, value", [(100.0, "if100", 100), (12.5, "if12.5", 12.5), (0, "asis", 0)])
def test_an_imbalance_factor_may_have_a_point_or_be_none(course, written, name, value):
    (job,) = plan.plan(plan.read_config(course({"03_encoders": {}}, imbalances=[written])))
    assert job.run == f"{DATA}-{name}-seed0" and repr(job.parameters["IMBALANCE"]) == repr(value)


def test_a_data_set_of_its_own_may_be_left_empty_and_a_notebook_that_runs_once_given_any(course):
    notebooks = {
        "00_start_here": {"once": True, "parameters": {"DATASET": DATA}},
        "03_encoders": {"by_dataset": {DATA: None}},
    }
    once, spread = plan.plan(plan.read_config(course(notebooks)))
    assert (once.run, once.parameters["DATASET"]) == ("all", DATA)
    assert spread.parameters == {name: PARAMETERS[name] for name in ("DATASET", "IMBALANCE", "SEED")} | {
        "RUN": f"tiny/03_encoders/{RUN}"
    }


@pytest.mark.parametrize("name", ["record.json", "notebook.ipynb", "batch.json"])
@pytest.mark.parametrize("cut", [True, False])
def test_a_finished_run_with_a_file_cut_or_lost_is_not_finished(cut, name, tmp_path):
    for whole in ("record.json", "notebook.ipynb", "batch.json"):
        (tmp_path / whole).write_text('{"cells": []}')
    assert execute.is_finished(tmp_path)
    if cut:
        (tmp_path / name).write_text('{"cells": [')
    else:
        (tmp_path / name).unlink()
    assert not execute.is_finished(tmp_path)


def test_the_length_of_a_notebook_says_whether_it_is_whole(tmp_path):
    for name, content in (("record.json", "{}"), ("batch.json", '{"bytes": 9}'), ("notebook.ipynb", "123456789")):
        (tmp_path / name).write_text(content)
    assert execute.is_finished(tmp_path)  # it was not read
    (tmp_path / "notebook.ipynb").write_text("12345678")
    assert not execute.is_finished(tmp_path)


def test_parts_hold_all_that_a_run_builds_on(monkeypatch):
    def jobs(notebook: str, runs: list[str]) -> list[plan.Job]:
        return [plan.Job(notebook, run, {}, "", 1.0) for run in runs]

    names = [f"a-seed{seed}" for seed in range(5)]
    planned = [*jobs("00_start_here", ["all"]), *jobs("03_encoders", names), *jobs("07_latent_diffusion", names[:4])]
    assert launch.slices(planned) == [planned]
    monkeypatch.setattr(launch, "SLICE", 4)
    parts = launch.slices(planned)
    assert [{job.run for job in part} for part in parts] == [set(names[:2]), set(names[2:4]), {names[4]}, {"all"}]
    assert sorted(map(str, planned)) == sorted(str(job) for part in parts for job in part)


def test_more_runs_than_one_snakemake_takes_are_done_in_parts(course, monkeypatch, capsys):
    monkeypatch.setattr(launch, "SLICE", 2)
    config = course({"00_start_here": {"once": True}, "03_encoders": {}, "07_latent_diffusion": {}}, seeds=[0, 1])
    assert main([str(config)]) == 0
    told = capsys.readouterr().out
    assert re.findall(r"Part (.+) of 3: (\d) notebook runs? to do", told) == [("1", "2"), ("2", "2"), ("3", "1")]
    before = finished()
    assert len(before) == 5
    with monkeypatch.context() as patch:
        patch.setattr(launch, "_snakemake", None)  # it is not asked
        assert main([str(config)]) == 0
    assert "Nothing to do: all 5 runs are finished" in capsys.readouterr().out

    folder = Path("runs/tiny/03_encoders") / f"{RUN[:-1]}1"
    (folder / "record.json").unlink()
    assert main([str(config)]) == 0
    assert [line[:9] for line in capsys.readouterr().out.splitlines() if line.startswith("Part")] == [
        "Part 2 of",
        "Part 3 of",
    ]
    again = finished()
    assert {key for key in before if again[key] != before[key]} == {f"03 {RUN[:-1]}1", f"07 {RUN[:-1]}1", "00 all"}


def test_damaged_runs_are_made_anew_and_the_report_is_written_without_them(course, capsys):
    config = course({"01_long_tailed_data": {"seeds": [0, 1, 2]}})
    assert main([str(config)]) == 0
    before = finished()
    folders = [Path(f"runs/tiny/01_long_tailed_data/{RUN[:-1]}{seed}") for seed in range(3)]
    (folders[0] / "record.json").unlink()
    page = (folders[1] / "notebook.ipynb").read_text()
    (folders[1] / "notebook.ipynb").write_text(page[: len(page) // 2])
    report.build(Path("runs/tiny").absolute(), plan.plan(plan.read_config(config)))
    assert "1 of 3 notebook runs finished" in Path("runs/tiny/index.html").read_text()

    capsys.readouterr()
    assert main([str(config)]) == 0
    assert "1 of 3 runs are finished already; 2 notebook runs to do" in capsys.readouterr().out
    assert [finished()[key] != before[key] for key in sorted(before)] == [True, True, False]
    assert all(execute.is_finished(folder) for folder in folders)
    assert (folders[0].with_name(f"{RUN}.old-1") / "notebook.ipynb").exists()  # nothing was lost
    text = Path("runs/tiny/index.html").read_text()
    assert "71.0 ± 1.0" in text and "3 of 3 notebook runs finished" in text  # the mean of three runs


def test_a_stopped_run_with_unreadable_parameters_is_begun_afresh(tmp_path):
    folder = tmp_path / "run"
    for damaged in (False, True):
        execute._prepare_folder(folder, "the same")
        (folder / "checkpoints").mkdir(exist_ok=True)
        (folder / "run.json").write_text("{" if damaged else "{}")
    execute._prepare_folder(folder, "the same")
    assert not (folder / "checkpoints").exists() and (tmp_path / "run.old-1" / "checkpoints").exists()


def test_without_room_for_the_report_the_failures_are_told_first(course, monkeypatch, capsys):
    monkeypatch.setattr(launch, "_to_do", lambda command, environment, wanted: wanted)
    monkeypatch.setattr(launch, "_watch", lambda *_: 1)
    Path("runs/tiny/index.html.part").mkdir(parents=True)  # nothing can be written there
    assert main([str(course({"03_encoders": {}}))]) == 2
    said = capsys.readouterr()
    assert "0 notebook runs finished, 0 failed, 1 not started:" in said.out
    sentence = r".*runs/tiny/index\.html cannot be written \(.+\): make room and give the same command again\.\n"
    assert re.fullmatch(sentence, said.err)


def test_a_full_disk_leaves_no_half_page(course, monkeypatch):
    def full(*_) -> None:
        raise OSError(28, "No space left on device")

    page = Path("notebooks/03_encoders.html")
    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(CourseError, match=r"03_encoders.html cannot be written \(No space left"):
        pages.write_page(page.with_suffix(".ipynb"))
    monkeypatch.undo()
    assert not list(page.parent.glob("*.html*"))


@pytest.mark.parametrize("stopped", [False, True])
def test_what_goes_on_after_again_is_the_command_without_it(stopped, course, monkeypatch, capsys):
    def watch(*_) -> int:
        if stopped:
            raise KeyboardInterrupt
        return 1

    monkeypatch.setattr(launch, "_to_do", lambda command, environment, wanted: wanted)
    monkeypatch.setattr(launch, "_watch", watch)
    config = str(course({"03_encoders": {}}))
    for options, command in (
        (["--again"], "the same command without --again (make: without AGAIN=1)"),
        ([], "the same command"),
    ):
        assert main([config, *options]) == (130 if stopped else 1)
        said = capsys.readouterr().out
        begin = "What is finished stays;" if stopped else "When that is mended,"
        assert f"{begin} {command} goes on" in said


@pytest.mark.parametrize(
    ("job", "sentence"),
    [
        ([], "Give a job; python -m course run starts this"),
        (["job.json"], "job.json is no job; start the batch with python -m course run"),
        (["{}"], "is no job"),
        ([json.dumps({"notebook": "zz", "parameters": {}, "code": ""})], "is no job"),
        ([json.dumps({"notebook": "zz", "parameters": {"RUN": "tiny/zz/all"}, "code": ""})], "Unknown notebook 'zz'"),
    ],
)
def test_a_run_started_by_hand_is_refused_in_one_sentence(course, capsys, job, sentence):
    assert execute.main(job) == 2
    said = capsys.readouterr().err
    assert sentence in said and said.count("\n") == 1


def test_the_courses_own_configurations_fit_the_notebooks(monkeypatch, tmp_path):
    for name in ("DATA", "RUNS", "NOTEBOOKS"):
        monkeypatch.delenv(f"LT_{name}", raising=False)
    # All but those of experiments, which run no notebooks.
    folder = files.REPOSITORY / "config"
    of_experiments = {folder / f"{name}.yaml" for name in ("imagenet_lt", "livt_reference", "pretrained")}
    configurations = sorted({*folder.glob("*.yaml")} - of_experiments)
    assert {path.name for path in configurations} >= {"quick.yaml", "cifar.yaml"}
    monkeypatch.setattr(plan, "_check_data", lambda names: None)
    for path in configurations:
        wanted = plan.plan(plan.read_config(path))
        assert len({one.folder for one in wanted}) == len(wanted) > 0
        assert {one.folder.parent.parent.name for one in wanted} == {path.stem}


def test_what_is_said_while_it_runs(course, monkeypatch, capsys):
    config = plan.read_config(course({"03_encoders": {"seconds": 60}, "07_latent_diffusion": {"seconds": 30}}))
    one, two = plan.plan(config)
    (one.folder.parent.parent / ".batch").mkdir(parents=True)
    clock = [1000.0]
    monkeypatch.setattr(monitor.time, "time", lambda: clock[0])
    board = monitor.ProgressMonitor(one.folder.parent.parent, [one, two], jobs=1)
    assert board.opening(8) == "6 of 8 runs are finished already; 2 notebook runs to do, about 2 min, into runs/tiny"

    def happens(event: str, at: float, run=one, **facts) -> list[str]:
        clock[0] = at
        with open(board.events, "a") as file:
            file.write(
                json.dumps({"event": event, "run": f"tiny/{run.notebook}/{run.run}", "time": at, **facts}) + "\n"
            )
        board.update()
        return capsys.readouterr().out.splitlines()

    assert happens("start", 1001) == ["[1/2] 03_encoders · about 60 s"]
    one.folder.mkdir(parents=True)
    progress = {"time": 1011, "label": "CE, seed 1", "done": 240, "total": 600, "loss": 1, "seconds_left": 12.2}
    (one.folder / "progress.jsonl").write_text(json.dumps(progress) + "\n")
    clock[0] = 1012
    board.update()
    assert capsys.readouterr().out == "[1/2] 03_encoders · CE, seed 1: 40% · 12 s left\n"
    clock[0] = 1013
    board.update()
    assert capsys.readouterr().out == ""  # not more often than every ten seconds
    cells = [
        {"metadata": {"papermill": {"status": state}}} for state in ("completed", "completed", "running", "pending")
    ]
    (one.folder / "notebook.part.ipynb").write_text(json.dumps({"cells": cells}))
    clock[0] = 1041
    board.update()
    assert capsys.readouterr().out == "[1/2] 03_encoders · cell 2 of 4 · 40 s so far\n"
    finish = happens("finish", 1121, seconds=120.0)
    assert finish == [
        "[1/2] 03_encoders finished in 2 min · about 60 s for the remaining 1"
    ]  # this machine is half as fast
    assert happens("start", 1122, two) == ["[2/2] 07_latent_diffusion · about 60 s"]
    lines = happens("fail", 1124, two, seconds=2.0, error="ValueError: no")
    assert lines[0] == "[2/2] 07_latent_diffusion FAILED after 2 s: ValueError: no"
    assert board.closing(8).splitlines()[0] == "1 notebook run finished, 1 failed:"


def test_rows_that_differ_in_their_seed_become_mean_and_deviation():
    rows = [{"method": "CE", "imbalance": 100, "seed": seed, "accuracy": 69.0 + seed, "ece": 0.1} for seed in range(3)]
    rows.append({"method": "WCDAS", "imbalance": 100, "seed": 0, "accuracy": 80.04, "ece": 0.05})
    header, cells, note = report.summary(rows)
    assert header == ["method", "accuracy", "ece", "runs"] and "imbalance 100" in note
    assert cells == [["CE", "70.0 ± 1.0", "0.100 ± 0.000", "3"], ["WCDAS", "80.0", "0.050", "1"]]


def test_different_settings_are_never_averaged():
    rows = [{"method": "DDIM", "omega": omega, "steps": steps, "seed": 0, "label_accuracy": 80.5 + omega}
            for omega, steps in ((0.0, 25), (1.0, 25), (1.0, 50))]  # fmt: skip
    header, cells, _ = report.summary(rows)
    assert header[-4:] == ["omega", "steps", "label_accuracy", "runs"]
    assert [cell[-4:] for cell in cells] == [
        ["0", "25", "80.5", "1"],
        ["1", "25", "81.5", "1"],
        ["1", "50", "81.5", "1"],
    ]


def test_a_table_of_many_measures_shows_the_first_and_says_how_many_there_are():
    header, cells, note = report.summary([{"method": "CE", **{f"measure {i}": float(i) for i in range(14)}}])
    assert len(header) == 1 + report.MEASURES + 1 == len(cells[0]) and "4 more columns are in record.json" in note


def test_the_report_shows_findings_a_picture_of_the_scoreboard_and_a_card_for_each_notebook(course, notebook):
    notebook(Path("notebooks/12_scoreboard.ipynb"), PARAMETERS, OPEN.format(name="12_scoreboard"), WORK.format())
    config = course({"01_long_tailed_data": {}, "12_scoreboard": {"once": True}})
    header = "# 12 · Board\n\n**Question.** Who\nwins?\n\n**What we found.** Nobody, at $\\tau = 1$.\n\nMore."
    path = Path("notebooks/12_scoreboard.ipynb")
    content = json.loads(path.read_text())
    content["cells"][0]["source"] = header
    content["cells"].append(copy.deepcopy(content["cells"][-1]))
    shows = "from IPython.display import Image, display\ndisplay(Image(b'picture', format='png'))"
    content["cells"][-1].update(source=shows, metadata={"tags": ["key-figure"]}, id="shows")
    path.write_text(json.dumps(content))
    assert main([str(config)]) == 0
    page = Path("runs/tiny/index.html").read_text()
    picture = base64.b64encode(b"picture").decode()
    assert page.count(f"data:image/png;base64,{picture}") == 2  # above the findings, and on its card
    assert page.index("What was found") < page.index(picture) < page.index("<math") < page.index("The notebooks")
    assert page.count('class="card"') == 2 and "<p>Who wins?</p>" in page
    text = Path("runs/tiny/12_scoreboard/all/notebook.html").read_text()
    assert "<math" in text and "$" not in re.search(r"What we found.+?</p>", text, re.S)[0]
    assert not re.findall(r"<(?:script|link)[^>]+(?:src|href)=.https?:", text)  # it needs no network


def test_every_formula_of_the_course_is_drawn_without_a_network():
    for path in [*(REPOSITORY / "notebooks").glob("*.ipynb"), *(REPOSITORY / "solutions").glob("*.ipynb")]:
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            source = "".join(cell["source"])
            if cell["cell_type"] == "markdown" and "$" in source:
                assert "<math" in pages.to_html(source), (path.name, source[:80])


def test_runs_that_need_a_gpu_get_one_each_and_others_take_none(tmp_path, monkeypatch):
    held = 'import sys, time; from lt_utils.files import lock; from pathlib import Path; lock(Path(sys.argv[1]), ".gpu-0.lock")'
    other = subprocess.Popen(
        [sys.executable, "-c", held + '; print("held", flush=True); time.sleep(60)', str(tmp_path)],
        stdout=subprocess.PIPE,
        cwd=REPOSITORY,
    )
    try:
        assert other.stdout.readline() == b"held\n"
        monkeypatch.setenv("LT_RUNS", str(tmp_path))
        monkeypatch.setenv("LT_GPUS", "0,1")
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "all")
        monkeypatch.setattr(execute, "PATIENCE", 0.1)
        execute._take_gpus()  # asked for none
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "all" and not (tmp_path / ".gpu-1.lock").exists()
        monkeypatch.setenv("LT_NEEDS_GPU", "1")
        execute._take_gpus()
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "1"
        monkeypatch.setenv("LT_GPUS", "0")
        with pytest.raises(CourseError, match="No GPU is free"):
            execute._take_gpus()
        assert "LT_RANKS" not in os.environ
        monkeypatch.setenv("LT_RANKS", "")  # given back at the end
        monkeypatch.setenv("LT_NEEDS_GPU", "2")
        monkeypatch.setenv("LT_GPUS", "0,1")
        with pytest.raises(CourseError, match="Only 1 of 2 GPUs are free"):
            execute._take_gpus()
        monkeypatch.setenv("LT_GPUS", "0,1,2,3")
        execute._take_gpus()
        assert (os.environ["CUDA_VISIBLE_DEVICES"], os.environ["LT_RANKS"]) == ("1,2", "2")
        assert not (tmp_path / ".gpu-3.lock").exists()
    finally:
        other.kill()
        other.wait()
        for number in (1, 2):
            files.unlock(tmp_path, f".gpu-{number}.lock")


def test_a_machine_with_fewer_gpus_than_asked_for_gives_all_it_has(tmp_path, monkeypatch):
    monkeypatch.setenv("LT_RUNS", str(tmp_path))
    for there, given in (("", 0), ("3", 1), ("3,4,5", 2)):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", there)
        launch._snakemake([], 2, tmp_path, 1, [])
        assert files.read_json(tmp_path / ".batch" / "plan.json")["gpu"] == given
