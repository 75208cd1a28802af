"""Atomic writes, locks that end with their process, and YAML that refuses a repeated key."""

import errno
import json
import os
import re
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import yaml
from filelock import FileLock, Timeout

from lt_utils.errors import CourseError

REPOSITORY = Path(__file__).resolve().parent.parent

# What a file system without locks answers: there, work goes on without one.
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)

_locks: dict[Path, FileLock] = {}  # held for the life of the process: the system frees them at its end, however it ends


def folder_in(variable: str, default: Path) -> Path:
    """The folder that an environment variable names, absolute, ~ being the home; without it the default."""
    return Path(os.path.expanduser(os.environ.get(variable) or default)).absolute()


def is_name(value: object) -> bool:
    """Whether this can be a folder or a file of its own below another: a text of letters, digits and . _ -, not first . or -."""
    return isinstance(value, str) and re.fullmatch(r"\w[\w.-]*", value) is not None


def write_whole(
    path: Path, write: Callable[[BinaryIO], object], remedy: str = "make room or choose another folder"
) -> None:
    """Let `write` fill a binary file of another name, then rename it to `path`: a reader sees the whole file or none of it.

    The folder is made if it is not there. CourseError, with `remedy`, if the disk is full or not writable; then no half of
    the file is left.
    """
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "wb") as file:
            write(file)
        os.replace(part, path)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        raise CourseError(f"{path} cannot be written ({error.strerror or error}): {remedy}.") from None


def write_json(path: Path, content: object) -> None:
    """Content as a JSON file, written whole; what JSON does not know is stored as its text."""
    text = json.dumps(content, indent=1, ensure_ascii=False, default=str) + "\n"
    write_whole(path, lambda file: file.write(text.encode()))


def read_json(path: Path) -> dict | None:
    """Content of a JSON file, or None if there is none that can be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def is_damaged(path: Path) -> bool:
    """Whether a file is there that should be JSON and is not (it was cut short, say): that is not the same as missing."""
    return path.exists() and read_json(path) is None


def lock(folder: Path, name: str = ".lock", patience: float = 0.0) -> None:
    """Hold <folder>/<name> for the life of this process; asking again in the same process is fine.

    Waits up to `patience` seconds for another holder, then raises CourseError with its process and machine.
    """
    path = folder / name
    if path in _locks:
        return
    # A soft lock, which filelock would fall back to, outlives a killed process.
    held = FileLock(path, timeout=patience, poll_interval=0.2, fallback_to_soft=False)
    try:
        held.acquire()
    except Timeout as error:
        holder = ""
        with suppress(OSError):
            holder = path.read_text(encoding="utf-8")
        raise CourseError(
            f"Another run (process {holder or 'unknown'}) is writing {folder}; wait for it, stop it, or choose another folder."
        ) from error
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    with suppress(OSError):  # Windows lets nobody read or write a locked file: the message then names no process
        path.write_text(f"{os.getpid()} on {socket.gethostname()}", encoding="utf-8")
    _locks[path] = held


def unlock(folder: Path, name: str = ".lock") -> None:
    """Give the lock back before the process ends."""
    held = _locks.pop(folder / name, None)
    if held is not None:
        held.release()


class _Loader(yaml.SafeLoader):
    """Plain YAML, but a key that is given twice in one mapping is an error: YAML itself would take the last silently."""

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        node, lines = super().compose_mapping_node(anchor), {}
        for key, _ in node.value:
            name, line = (key.tag, str(key.value)), key.start_mark.line + 1
            if name in lines:
                raise CourseError(f"has the key {key.value} twice, in lines {lines[name]} and {line}: take one out.")
            lines[name] = line
        return node


def read_yaml(path: Path) -> object:
    """Content of a YAML file; CourseError if it cannot be read or has a key twice."""
    try:
        return yaml.load(Path(path).read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise CourseError(f"{path} cannot be read ({error.strerror}); see config/ for those there are.") from error
    except CourseError as error:  # from the loader, which does not know the file
        raise CourseError(f"{path} {error}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CourseError(f"{path} is not valid YAML in UTF-8: {' '.join(str(error).split())}.") from error
