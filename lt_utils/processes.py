"""How a process ends with the one that started it, however that ends (even kill -9). There are two ways:

- A pipe for a program of ours, on every system. Through programs between the two, as Snakemake or torchrun, it is handed on.
- The kernel of Linux for a program that does not watch a pipe. It tells the child alone, not what that starts in turn.
"""

import ctypes
import os
import signal
import threading
from collections.abc import Callable
from functools import partial


def when_starter_is_gone(end: Callable[[], object]) -> None:
    """Call end(), in a thread, as soon as the process is gone that started this one with `stdin=subprocess.PIPE`.

    The starter alone holds the other end of that pipe, and writes nothing; when it ends, so does standard input.
    """

    def wait() -> None:
        while os.read(0, 1):
            pass
        end()

    threading.Thread(target=wait, daemon=True).start()


def interrupted_with_parent() -> Callable[[], object] | None:
    """For Popen's `preexec_fn`: on Linux the new process gets SIGINT as soon as this one is gone; elsewhere None."""
    libc = ctypes.CDLL(None)
    return partial(libc.prctl, 1, int(signal.SIGINT)) if hasattr(libc, "prctl") else None  # 1: PR_SET_PDEATHSIG
