"""Where a result comes from: versions, commit, device and threads."""

import hashlib
import os
import platform
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from lt_utils import __version__
from lt_utils.files import REPOSITORY

# What a git hook leaves in the shell: these lead git to another repository than that of the folder.
OF_ANOTHER = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR")


def surroundings() -> dict[str, object]:
    """What a result depends on beside its parameters: versions, commit, device and threads."""
    versions = {"python": platform.python_version()}
    for package in ("torch", "torchvision", "numpy"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    versions["lt_utils"] = __version__
    torch = sys.modules.get("torch")  # not imported here: who has not used it need not wait for it
    accelerator = torch.accelerator.current_accelerator() if torch and torch.accelerator.is_available() else None
    name = torch.cuda.get_device_name() if accelerator and accelerator.type == "cuda" else None
    return {
        "versions": versions,
        **_commit(),
        "package": package_hash(),
        "device": name or (accelerator.type.upper() if accelerator else "CPU") + f" ({_processor()})",
        "threads": torch.get_num_threads() if torch else None,
    }


def package_hash() -> str:
    """Hash of the package's source: tells whether two results come from the same code, committed or not."""
    sources = sorted((REPOSITORY / "lt_utils").rglob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:16]


def _commit() -> dict[str, object]:
    """This repository's commit, and whether its files or the package differ from it; None where git cannot say.

    None, too, where the course lies unpacked inside another repository: its commit says nothing of this code.
    """
    own = {name: value for name, value in os.environ.items() if name not in OF_ANOTHER}

    def git(*words: str) -> str | None:
        command = ["git", "-C", str(REPOSITORY), *words]
        try:
            done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=10, env=own)
        except (OSError, ValueError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    top = git("rev-parse", "--show-toplevel")
    if not top or Path(top).resolve() != REPOSITORY.resolve() or not (commit := git("rev-parse", "HEAD")):
        return {"commit": None, "dirty": None}
    changed = git("status", "--porcelain", "--untracked-files=no")
    new = git("ls-files", "--others", "--exclude-standard", "--", "lt_utils")
    return {"commit": commit, "dirty": None if changed is None or new is None else bool(changed or new)}


def _processor() -> str:
    try:
        named = re.search(
            r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace"), re.M
        )
        return named[1] if named else platform.machine()
    except OSError:
        return platform.processor() or platform.machine()
