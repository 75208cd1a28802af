"""How many CPU cores there are for this process. It imports no torch: a batch asks before it starts anything."""

import os


def cores() -> int:
    """CPU cores that this process may use, at least 1; in a container or a job of SLURM fewer than the machine has."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(allowed, slurm_cores() or allowed)


def slurm_cores() -> int | None:
    """CPU cores that SLURM gave this job, or None outside of one. Not every SLURM binds a job to them: it may see all.

    SLURM_CPUS_PER_TASK is there only if the job asked so; SLURM_CPUS_ON_NODE counts all of its cores on this node.
    """
    for name in ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE"):
        given = os.environ.get(name, "")
        if given.isdecimal() and int(given) > 0:
            return int(given)
    return None
