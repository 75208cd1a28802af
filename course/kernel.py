"""The kernel that executes a notebook: this environment's own, with figures and asserts, whatever the shell says."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

# What a shell may hold that changes the result: where figures go, whose kernel is called python3, whether asserts run.
OF_THE_SHELL = ("MPLBACKEND", "JUPYTER_PATH", "PYTHONOPTIMIZE")


@contextmanager
def own_kernel() -> Iterator[None]:
    """Within it, kernels that are started are those of this environment, without what the shell says of `OF_THE_SHELL`."""
    with patch.dict(os.environ, JUPYTER_PREFER_ENV_PATH="1"):
        for name in OF_THE_SHELL:
            os.environ.pop(name, None)
        yield
