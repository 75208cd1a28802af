"""How a job trains its seeds: as one batched network, side by side in processes, or one by one. The fastest, as measured here.

The seconds that a process takes to start and to compile are not counted: seeds apart pay them for each seed.
"""

from experiments.gpu_quarter_hour.speed import BEST, SEEDS

TOGETHER, SIDE, ONE = "together", "side by side", "one by one"


def _rows(jobs: dict, job: str, network: str, device: str) -> list[dict]:
    records = [record for record in jobs.get(job, {}).values() if record.get("device") == device]
    return [row for record in records for row in record.get("rows", ()) if row["network"] == network]


def _one_process(rows: list[dict], seeds: int) -> float | None:
    """As the job would train, compiled if that works, else eager. 0.0: both failed; None: not measured."""
    found = {row["way"]: row.get("images/s", 0.0) for row in rows if row["seeds"] == seeds}
    return found.get(BEST) or found.get("eager", 0.0) if found else None


def _processes(rows: list[dict]) -> float | None:
    """The sum of all processes; None if one is missing or they did not run at the same time."""
    if len(rows) < SEEDS or any("images/s" not in row for row in rows):
        return None
    common = min(row["to"] for row in rows) - max(row["from"] for row in rows)
    longest = max(row["to"] - row["from"] for row in rows)
    return sum(row["images/s"] for row in rows) if common > 0.75 * longest else None


def rates(jobs: dict, network: str, device: str) -> dict[str, float]:
    """Images per second of all seeds in each way, of what the jobs speed and side have measured on this device."""
    speed, side = (_rows(jobs, job, network, device) for job in ("speed", "side"))
    found = {TOGETHER: _one_process(speed, SEEDS), SIDE: _processes(side), ONE: _one_process(speed, 1)}
    return {way: rate for way, rate in found.items() if rate is not None}


def fastest(found: dict[str, float]) -> tuple[str, str]:
    """The way with the most images per second, and a line that says why; together where the ways were not compared."""
    told = ", ".join(f"{way} {rate:,.0f}" for way, rate in found.items())
    if TOGETHER not in found or len(found) == 1:
        return (
            TOGETHER,
            f"{TOGETHER}, for the ways were not compared on this device; images/s of all seeds: {told or 'none'}",
        )
    best = max(found, key=found.__getitem__)
    return best, f"{best}, the most images/s of all seeds: {told}"
