"""Where and how a training computes: the device, its precision, and on a CPU the number of threads.

torch divides each operation evenly among its threads and waits for the slowest. Beside a process that keeps a core busy
the thread on that core gets half of the time, and every step waits for it: fewer threads are then faster. With the
environment variable LT_THREADS=idle each training looks, when it starts, for a quarter of a second at how busy the cores
are, and sets the number of threads accordingly. It is not the default, because the number of threads decides in which
order numbers are added, and so the last bits of the results.
"""

import os
import time
from pathlib import Path

import torch

from lt_utils.cores import cores
from lt_utils.errors import CourseError, choose

SHARE = 0.7  # of a core that must be idle: a thread pays off only on one that it has nearly to itself
_usual: int | None = None  # threads of torch before the first training changed them


def device() -> torch.device:
    """The accelerator if there is one (CUDA, or Apple's MPS), else the CPU.

    Of several processes that torchrun started each takes its own. CourseError if there are fewer accelerators than processes.
    """
    if not torch.accelerator.is_available():
        return torch.device("cpu")
    if (processes := int(os.environ.get("LOCAL_WORLD_SIZE", 1))) > 1:
        if processes > (there := torch.accelerator.device_count()):
            raise CourseError(
                f"{processes} processes need as many accelerators, and {there} can be used here: start {there}."
            )
        torch.accelerator.set_device_index(int(os.environ["LOCAL_RANK"]))
    return torch.accelerator.current_accelerator()


def precision_for(where: torch.device) -> str:
    """ "bf16" where it is fast (GPUs and CPUs with bfloat16 instructions), else "fp32"; LT_PRECISION=fp32 forbids bf16."""
    if choose("LT_PRECISION", os.environ.get("LT_PRECISION") or "auto", ("auto", "fp32")) == "fp32":
        return "fp32"
    if where.type == "cuda":
        # Older GPUs, such as the T4 of free notebook services, only emulate bfloat16, slowly.
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    capabilities = torch.cpu.get_capabilities() if where.type == "cpu" else {}
    return "bf16" if capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") else "fp32"


def autocast(where: torch.device, precision: str = "auto") -> torch.autocast:
    """Mixed precision for a `with` block: "bf16", "fp32" or "auto" (precision_for). CourseError for another word."""
    choose("precision", precision, ("auto", "bf16", "fp32"))
    precision = precision_for(where) if precision == "auto" else precision
    return torch.autocast(where.type, torch.bfloat16, enabled=precision == "bf16")


def busy_ticks(text: str, allowed: set[int], polite: bool) -> int:
    """Clock ticks that the `allowed` cores have worked since the machine started, from the text of Linux' /proc/stat.

    polite: count processes of lowered priority (nice) too; one of normal priority need not, because they give way to it.
    """
    total = 0
    for line in text.splitlines():
        name, *fields = line.split()
        if name.startswith("cpu") and name[3:].isdigit() and int(name[3:]) in allowed:
            # user and nice hold guests as well, which the ninth and tenth field repeat
            user, nice, system, _idle, _waiting, *others = map(int, fields[:8])
            total += user + system + sum(others) + (nice if polite else 0)
    return total


def idle_cores(window: float = 0.25) -> float:
    """Cores that other processes leave idle, 0 .. cores(), measured for `window` seconds; all of them if not on Linux."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return float(cores())
    allowed, polite = os.sched_getaffinity(0), os.nice(0) > 0

    def look() -> tuple[float, float, float]:
        work = busy_ticks(stat.read_text(encoding="ascii"), allowed, polite) / os.sysconf("SC_CLK_TCK")
        return work, time.process_time(), time.monotonic()

    before = look()
    time.sleep(window)
    work, own, elapsed = (after - earlier for after, earlier in zip(look(), before, strict=True))
    return min(max(len(allowed) - (work - own) / elapsed, 0.0), float(len(allowed)))


def threads_for(idle: float, usual: int) -> int:
    """Threads for so many idle cores: one for each that is at least 70 % idle, at least 1, at most `usual`."""
    return min(max(int(idle + 1 - SHARE), 1), usual)


def choose_threads() -> int:
    """Set torch's threads as LT_THREADS says and return their number; unset or empty, they stay as they are.

    Called by `train` on a CPU. CourseError for a value other than "idle".
    """
    global _usual
    rule = os.environ.get("LT_THREADS", "")
    if rule not in ("", "idle"):
        raise CourseError(f'LT_THREADS can be "idle" or empty, not "{rule}".')
    if rule:
        _usual = _usual or torch.get_num_threads()
        torch.set_num_threads(threads_for(idle_cores(), _usual))
    return torch.get_num_threads()
