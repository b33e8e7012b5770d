"""What several workers do for a study: arms a minute by joblib's processes and by Ray's, as ratios to one process, in one run.

Each way is given the same study and as many workers, starts them within the measured time, and must give the same table.
The rate that a long study comes near to is the one without the start, from the first finished arm to the last.

``python benchmarks/studies.py [STUDY [SEEDS [WORKERS]]]``, by default ``convexity 4 2``.
"""

import sys
import time
from importlib.util import find_spec

from unstick.studies.frame import Setting, StudyResult, find_study, run_study

STUDY, SEEDS, WORKERS = "convexity", 4, 2


def table(told: StudyResult) -> list[tuple[str, int, str, str]]:
    """All but what is measured in seconds; repr keeps every bit, and tells nan from nan."""
    return [
        (
            row.arm,
            row.seed,
            repr({name: value for name, value in row.values.items() if "seconds" not in name}),
            row.failed,
        )
        for row in told.rows
    ]


def timed(
    name: str, setting: Setting, backend: str, workers: int
) -> tuple[StudyResult, float, float]:
    """The result, arms a minute in all, and arms a minute after the first."""
    moments: list[float] = []
    begin = time.perf_counter()
    told = run_study(
        find_study(name),
        setting,
        backend=backend,
        jobs=workers,
        progress=lambda _study, _done, _planned: moments.append(time.perf_counter()),
    )
    whole = time.perf_counter() - begin
    finished = moments[1:]  # the first call comes before any arm
    after = (len(finished) - 1) / (finished[-1] - finished[0])
    return told, 60 * len(told.rows) / whole, 60 * after


def compare(name: str, seeds: int, workers: int) -> None:
    setting = Setting(seeds=seeds)
    run_study(find_study(name), Setting(seeds=1), backend="here")  # imports and caches come first
    backends = ["here", "processes", *(["ray"] if find_spec("ray") else [])]
    found = {each: timed(name, setting, each, workers) for each in backends}
    first, rate, later = found["here"]
    print(
        f"{name}, {len(first.rows)} arms, here: {rate:.1f} arms a minute, {later:.1f} after the first"
    )
    for backend in backends[1:]:
        told, its_rate, its_later = found[backend]
        print(
            f"  {backend}, {workers} workers: {its_rate / rate:.2f} times the arms a minute, {its_later / later:.2f} after the "
            f"first; the same table: {table(told) == table(first)}"
        )
    if "ray" not in backends:
        print("  ray: not installed")


if __name__ == "__main__":
    given = sys.argv[1:]
    compare(
        given[0] if given else STUDY,
        int(given[1]) if len(given) > 1 else SEEDS,
        int(given[2]) if len(given) > 2 else WORKERS,
    )
