"""Progress that reads well everywhere: a few printed lines for people, a JSON line every two seconds for the batch."""

import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

QUARTERS = (0.25, 0.5, 0.75)
SHORT = 5.0  # seconds; a shorter training prints its last line only
EVERY = 2.0  # seconds between two lines of progress.jsonl

_log: Path | None = None


def log_to(path: Path | None) -> None:
    """From now on `track` also appends its JSON lines to this file; None: to no file."""
    global _log
    _log = path


def log_file() -> Path | None:
    """The file of `log_to`."""
    return _log


def duration(seconds: float) -> str:
    """A duration in words: 8 s, 3 min, 1 h 20 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def track(steps: Iterable, title: str, total: int | None = None, unit: str = "images") -> Iterator:
    """Yield the items of `steps` unchanged; print at most four lines, and append JSON lines to the file of `log_to`.

    Items of train() carry .step (1-based, done), .total, .loss and .images (seen so far; `unit` names what they are); any
    other iterable works too, if it has a length or `total` is given. Where .start says that a training goes on from a
    checkpoint, that is printed first. Nothing is printed to stderr, so a notebook's stored output stays clean.
    """
    if total is None and hasattr(steps, "__len__"):
        total = len(steps)
    begin = logged = time.perf_counter()
    first = last = None  # (steps done, images) at the first item and now
    due = list(QUARTERS)
    losses: list[float] = []
    sampled = -1.0
    done = 0
    try:
        for count, item in enumerate(steps, start=1):
            done = getattr(item, "step", count)
            total = getattr(item, "total", None) or total
            now = time.perf_counter()
            if now - sampled > 0.1:  # reading a loss may wait for the device: ten times a second is enough
                losses, sampled = losses[-50:] + [_loss(item)], now
            last = (done, getattr(item, "images", None))
            latest = now
            if first is None:
                first, warm, start = last, now, getattr(item, "start", 0)
                if start == total:
                    print(f"{title}: trained already ({total:,} steps); its checkpoint is loaded.", flush=True)
                elif start:
                    print(f"{title}: going on from step {start:,} of {total:,}.", flush=True)
            yield item
            now = time.perf_counter()
            left = (now - begin) / count * (total - done) if total else None
            line = {"label": title, "done": done, "total": total, "loss": _mean(losses), "seconds_left": left}
            if now - logged >= EVERY:
                _append(line | {"rate": _rate(first, last, latest - warm, unit)[0]})
                logged = now
            if total and due and done / total >= due[0] and done < total:
                while due and done / total >= due[0]:
                    due.pop(0)
                if now - begin + left >= SHORT:
                    _say(title, done, total, losses, _rate(first, last, latest - warm, unit), f"{duration(left)} left")
                    losses = losses[-1:]
    finally:
        # A training that is left early saves when it is closed; a traceback would otherwise keep it open.
        getattr(steps, "close", lambda: None)()
    if last is None:
        print(f"{title}: already done, nothing left to train.", flush=True)
        return
    seconds = time.perf_counter() - begin
    rate = _rate(first, last, latest - warm, unit)
    _append({"label": title, "done": done, "total": total, "loss": _mean(losses), "seconds_left": 0.0, "rate": rate[0]})
    if start != total:
        _say(title, done, total, losses, rate, f"{seconds:.1f} s" if seconds < 10 else duration(seconds))


def _loss(item: object) -> float | None:
    loss = getattr(item, "loss", None)
    return None if loss is None else float(loss)


def _mean(losses: list[float | None]) -> float | None:
    known = [loss for loss in losses if loss is not None]
    return sum(known) / len(known) if known else None


def _rate(first: tuple, last: tuple, seconds: float, unit: str) -> tuple[float | None, str]:
    """(number per second, its unit): `unit` if the items count them, else steps; the first (warm-up) is left out."""
    column = 0 if last[1] is None else 1
    made = last[column] - first[column]
    return (made / seconds if made and seconds > 0 else None), ("steps", unit)[column]


def _say(title: str, done: int, total: int | None, losses: list, rate: tuple[float | None, str], end: str) -> None:
    parts = [f"{title}: step {done:,}" + (f"/{total:,}" if total else "")]
    if (loss := _mean(losses)) is not None:
        parts.append(f"loss {loss:.3g}")
    if rate[0] is not None:
        parts.append(f"{rate[0]:,.0f} {rate[1]}/s" if rate[0] >= 10 else f"{rate[0]:.2g} {rate[1]}/s")
    print(" · ".join([*parts, end]), flush=True)


def _append(line: dict) -> None:
    """One JSON line for the batch; a full disk must not end a training that would otherwise go on."""
    if _log is None:
        return
    try:
        with open(_log, "a", encoding="utf-8") as file:
            file.write(json.dumps({"time": round(time.time(), 2), **line}) + "\n")
    except OSError:
        pass
