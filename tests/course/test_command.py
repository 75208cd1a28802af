"""python -m course: one command; and what earlier commands answer."""

import subprocess
import sys

import pytest

from course.__main__ import COMMANDS, main
from lt_utils._moved import COMMANDS as EARLIER


def python(*words, folder):
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, cwd=folder)


def test_alone_it_lists_what_there_is(capsys):
    assert main([]) == main(["--help"]) == 0
    assert all(f"  {name} " in capsys.readouterr().out for name in ["run"])
    main([])
    told = capsys.readouterr().out
    assert all(f"\n  {name:10} " in told for name in COMMANDS)


def test_an_unknown_command_is_one_sentence(capsys):
    assert main(["runn"]) == 2
    assert "Did you mean 'run'?" in capsys.readouterr().err


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name, capsys):
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    assert stop.value.code == 0 and f"python -m course {name}" in capsys.readouterr().out


@pytest.mark.parametrize("name", EARLIER)
def test_earlier_commands_say_what_they_are_called_now(name, tmp_path):
    done = python("-m", f"lt_utils.{name}", "config/quick.yaml", folder=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == f"python -m lt_utils.{name} is now python -m {EARLIER[name]}, with the same arguments.\n"
    assert python("-c", f"import {EARLIER[name].split()[0]}", folder=tmp_path).returncode == 0


def test_other_modules_of_the_package_start_as_ever(tmp_path):
    assert python("-m", "lt_utils.errors", folder=tmp_path).returncode == 0
    assert python("-c", "import lt_utils", "-m", "lt_utils.batch", folder=tmp_path).returncode == 0


def test_every_command_explains_itself_without_docstrings():
    """python -OO, or PYTHONOPTIMIZE=2 in the shell, takes them away."""
    modules = [module for module, _ in COMMANDS.values()]
    modules += ["data_prep.__main__", "data_prep.bundle", "experiments.pretrain", "experiments.published_encoders"]
    modules += [f"experiments.{name}.experiment" for name in ("feature_gap", "imagenet_lt")]
    modules += [f"benchmarks.{name}" for name in ("__main__", "encoder", "images", "latent", "measures", "turns")]
    ask = """import importlib, sys
sys.argv = ["x", "--help"]
for name in sys.stdin.read().split():
    module = importlib.import_module(name)
    try:
        module.main(["--help"]) if module.main.__code__.co_argcount or hasattr(module.main, "__wrapped__") else module.main()
    except SystemExit as end:
        print("refused" if end.code else "explained", name)
"""
    done = subprocess.run([sys.executable, "-OO", "-c", ask], input=" ".join(modules), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert [line.split()[1] for line in done.stdout.splitlines() if line.startswith("explained")] == modules
