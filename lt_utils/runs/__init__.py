"""The folder of a run: its parameters, checkpoints and record. Nothing here imports torch, so that a batch starts at once."""

from lt_utils.runs.folder import Run, find_run, open_run, records, root
from lt_utils.runs.parameters import check, declared, notebook_path, notebooks_folder
from lt_utils.runs.provenance import package_hash, surroundings

__all__ = [
    "Run",
    "check",
    "declared",
    "find_run",
    "notebook_path",
    "notebooks_folder",
    "open_run",
    "package_hash",
    "records",
    "root",
    "surroundings",
]
