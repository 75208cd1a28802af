"""SLURM on this machine alone, in a folder of its own, from Debian's packages: apt install slurm-wlm munge.

    python tests/cluster/small_slurm.py up /tmp/slurm      # then: export SLURM_CONF=/tmp/slurm/slurm.conf
    python tests/cluster/small_slurm.py down /tmp/slurm

One controller and some nodes on loopback: each node is a slurmd of its own, with two CPUs and a GPU that is none (/dev/null).
It needs neither systemd nor cgroups, and keeps no accounting: who asks for the state of a job asks squeue.
"""

import argparse
import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "sinfo", "scancel", "scontrol")
PATH = os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"])
CPUS, MEMORY = 2, 20_000  # of a node; MB. More than the machine has is fine, nothing is bound to either

CONFIGURATION = """ClusterName=course
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=20
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmdLogFile={folder}/slurmd-%n.log
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
# no cgroups in a container: the processes of a job are found by their parents
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
# in seconds what takes minutes on a cluster: starting a job (anew: cred_expire), missing a node, killing what does not end
SchedulerParameters=sched_min_interval=200000,bf_interval=1
SlurmdTimeout=10
KillWait=3
ReturnToService=2
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName=n[1-{nodes}] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{first}-{last}] CPUs={cpus} RealMemory={memory} Gres=gpu:1
PartitionName=gpu Nodes=n[1-{nodes}] Default=YES State=UP
"""


def missing() -> list[str]:
    """The programs of SLURM and munge that this machine does not have."""
    return [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]


class Slurm:
    """A small SLURM in `folder` (a short path: a socket lies in it). Its clients need the variables of `environment`."""

    def __init__(self, folder: Path, nodes: int = 2):
        self.folder, self.nodes = Path(folder).absolute(), [f"n{number}" for number in range(1, nodes + 1)]
        path = os.pathsep.join([str(self.folder / "bin"), PATH])
        self.environment = {"SLURM_CONF": str(self.folder / "slurm.conf"), "PATH": path}

    def start(self) -> None:
        """Start munge, the controller and all nodes. RuntimeError if the nodes do not come up."""
        shutil.rmtree(self.folder, ignore_errors=True)
        for name in ("bin", "state", *self.nodes):
            (self.folder / name).mkdir(parents=True)
        port = _free_ports(1 + len(self.nodes))
        first = port + 1
        values = dict(host=socket.gethostname(), user=getpass.getuser(), folder=self.folder, nodes=len(self.nodes))
        values |= dict(port=port, first=first, last=first + len(self.nodes) - 1, cpus=CPUS, memory=MEMORY)
        (self.folder / "slurm.conf").write_text(CONFIGURATION.format(**values))
        gpus = [f"NodeName={node} Name=gpu File=/dev/null" for node in self.nodes]
        (self.folder / "gres.conf").write_text("\n".join(gpus) + "\n")
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        # Snakemake's executor calls srun without the variables of SLURM: a cluster has its configuration in /etc.
        srun = self.folder / "bin" / "srun"
        srun.write_text(f'#!/bin/sh\nSLURM_CONF={self.folder}/slurm.conf exec {shutil.which("srun", path=PATH)} "$@"\n')
        srun.chmod(0o755)
        files = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        self._run("munged", "--force", *(f"--{option}={self.folder}/munge.{end}" for option, end in files.items()))
        self._run("slurmctld", "-c")
        for node in self.nodes:
            self.start_node(node)
        self.wait_for(lambda: self.states() == dict.fromkeys(self.nodes, "idle"), "the nodes are not idle")

    def start_node(self, node: str) -> None:
        """Switch a node on."""
        self._run("slurmd", "-N", node)

    def kill_node(self, node: str) -> None:
        """As if its plug had been pulled: its daemon and all that it runs end at once and tell nobody."""
        jobs = self.ask("squeue", "--noheader", f"--nodelist={node}", "--format=%i").split()
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                line = " ".join(process.cmdline())
                step = any(line.startswith(f"slurmstepd: [{job}.") for job in jobs)
                if step or line.endswith(f"slurmd -N {node}") or process.environ().get("SLURM_JOB_ID") in jobs:
                    process.kill()

    def states(self) -> dict[str, str]:
        """Node -> its state: idle, mixed, allocated, down ..., with * as long as it does not answer."""
        return dict(line.split() for line in self.ask("sinfo", "--noheader", "--Node", "--format=%N %T").splitlines())

    def jobs(self) -> dict[str, str]:
        """Number -> state, of all jobs of the last minutes."""
        every = self.ask("squeue", "--noheader", "--states=all", "--format=%i %T")
        return dict(line.split() for line in every.splitlines())

    def job(self, number: str) -> dict[str, str]:
        """What `scontrol show job` says of one."""
        return dict(word.split("=", 1) for word in self.ask("scontrol", "show", "job", number).split() if "=" in word)

    def ask(self, *words: str) -> str:
        """What a client of SLURM prints; "" if it fails."""
        return subprocess.run(words, env=os.environ | self.environment, capture_output=True, text=True).stdout

    def wait_for(self, condition: Callable[[], bool], otherwise: str, seconds: float = 30) -> None:
        """Return as soon as `condition()` holds; RuntimeError if that takes longer."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                what = f"{otherwise} after {seconds:g} s; nodes {self.states()}, jobs {self.jobs()}"
                raise RuntimeError(f"SLURM in {self.folder}: {what}; see its logs there.")
            time.sleep(0.2)

    def stop(self) -> None:
        """End all jobs and all processes; the folder stays, with its logs."""
        if jobs := [number for number, state in self.jobs().items() if state in ("RUNNING", "PENDING", "COMPLETING")]:
            self.ask("scancel", *jobs)
            with suppress(RuntimeError):
                self.wait_for(lambda: not {"RUNNING", "COMPLETING"} & set(self.jobs().values()), "jobs run", seconds=10)
        self.ask("scontrol", "shutdown")
        for path in (*self.folder.glob("*.pid"),):
            with suppress(psutil.Error, ValueError, OSError):
                process = psutil.Process(int(path.read_text()))
                if process.name() in PROGRAMS:
                    process.terminate()
                    process.wait(10)

        for process in psutil.process_iter():  # of jobs, on a node that was taken down
            with suppress(psutil.Error):
                own = process.environ()
                if "SLURM_JOB_ID" in own and own.get("SLURM_CONF") == self.environment["SLURM_CONF"]:
                    process.kill()

    def _run(self, *words: str) -> None:
        """Start a daemon, which goes into the background by itself."""
        done = subprocess.run(words, env=os.environ | self.environment, capture_output=True, text=True, timeout=60)
        if done.returncode:
            raise RuntimeError(f"{words[0]} did not start: {done.stderr.strip()}")


def _free_ports(number: int) -> int:
    """The first of so many ports in a row that nobody uses."""
    for first in range(17_100, 20_000, number):
        sockets = [socket.socket() for _ in range(number)]
        try:
            for offset, one in enumerate(sockets):
                one.bind(("127.0.0.1", first + offset))
        except OSError:
            continue
        finally:
            for one in sockets:
                one.close()
        return first
    raise RuntimeError("No free ports between 17100 and 20000.")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("up", "down"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--nodes", type=int, default=2)
    chosen = parser.parse_args()
    slurm = Slurm(chosen.folder, chosen.nodes)
    slurm.start() if chosen.what == "up" else slurm.stop()
