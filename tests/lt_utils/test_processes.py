"""A process ends with its starter, also if that was killed: told by the end of a pipe, or by the kernel."""

import subprocess
import sys
import time

import pytest

PIPE = """import os, subprocess, sys, time
from lt_utils.processes import when_starter_is_gone
if sys.argv[1] == "starter":  # a shell, which watches nothing, stands between the two
    shell = ["sh", "-c", '"$@"; true', "sh", sys.executable, sys.argv[0], "started", sys.argv[2]]
    between = subprocess.Popen(shell, stdin=subprocess.PIPE)
else:
    when_starter_is_gone(lambda: (open(sys.argv[2], "w").close(), os._exit(0)))
    print("started", flush=True)
time.sleep(60)"""

KERNEL = """import subprocess, sys, time
from lt_utils.processes import interrupted_with_parent
if sys.argv[1] == "starter":
    more = [sys.executable, sys.argv[0], "started", sys.argv[2]]
    subprocess.Popen(more, preexec_fn=interrupted_with_parent(), start_new_session=True)
    time.sleep(60)
try:
    print("started", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    open(sys.argv[2], "w").close()"""

LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a call of Linux")


@pytest.mark.parametrize("code", [PIPE, pytest.param(KERNEL, marks=LINUX)], ids=["pipe", "kernel"])
def test_a_process_is_told_when_its_starter_is_killed(code, tmp_path):
    told, script = tmp_path / "told", tmp_path / "script.py"
    script.write_text(code)
    starter = subprocess.Popen([sys.executable, script, "starter", told], stdout=subprocess.PIPE)
    assert starter.stdout.readline() == b"started\n"
    time.sleep(0.3)
    assert not told.exists()
    starter.kill()
    starter.communicate(timeout=30)  # until the other one, which writes to the same pipe, has ended, too
    assert told.exists()
