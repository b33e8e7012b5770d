"""Running a study: every arm on every seed, in this process, in several, or on a cluster; each kept as it is finished.

Answers: what was measured?
Does not answer: what to compare (the study), or how results are kept (``store``).

Every arm is computed with one thread, wherever it runs, so that a table does not depend on how many processes there are.
Studies of time choose their own threads and run alone.
"""

import math
import os
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import chdir, closing, contextmanager, nullcontext
from dataclasses import replace
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from unstick.data import load
from unstick.errors import UnstickError
from unstick.studies.frame.catalog import find_study
from unstick.studies.frame.cluster import LostWorker, joined, spread
from unstick.studies.frame.digest import code_of
from unstick.studies.frame.plan import Arm, Setting, Study, Task
from unstick.studies.frame.result import StudyResult, blamed, result_of
from unstick.studies.frame.store import BadStore, Store
from unstick.studies.frame.table import Row, Value

__all__ = ["BACKENDS", "Progress", "results_of", "run_study"]

Progress = Callable[[str, float, float], None]
"""Told the stage, how much of it is done, and of how much."""

Rows = Generator[Row]

BACKENDS = ("processes", "ray", "here")


def run_study(
    study: Study,
    setting: Setting,
    *,
    store: Path | None = None,
    backend: str = "processes",
    jobs: int | None = None,
    address: str | None = None,
    part: tuple[int, int] | None = None,
    progress: Progress | None = None,
) -> StudyResult:
    """Run what the store does not hold yet, and decide.

    Args:
        study: Which.
        setting: How.
        store: A folder; arms that were measured in it are not run again, those that failed are. None: nothing is kept.
        backend: "processes" (joblib's), "ray", or "here" for this process alone.
        jobs: Processes; by default one a core, and no more than there are arms.
        address: Of a Ray cluster; by default a local one is started.
        part: Which of how many parts of the seeds, such as (1, 2) on one machine and (2, 2) on another; their stores merge.
        progress: Called with (study, finished, planned).

    Returns:
        The result. On Ctrl-C, of what was finished, with outcome "interrupted"; of a part, "part 1 of 2".

    Raises:
        BadStore: The store is of other code or settings, takes no more, or another run is writing it.
        UnstickError: The study does not take the user's data or model, they cannot be had, the backend cannot be used, or there
            are fewer seeds than parts.
    """
    if backend not in BACKENDS:
        raise UnstickError(f"the backend is {backend!r}; expected one of {', '.join(BACKENDS)}")
    _check_given(study, setting)
    with blamed(study, "naming its arms"):
        planned = study.planned(setting)
    mine = planned if part is None else _part(planned, part)
    tell = progress or (lambda _stage, _done, _total: None)
    outcome = "complete"
    # locked until the end, so that no other run writes there
    with nullcontext() if store is None else Store.opened(store, study, setting) as kept:
        rows = [] if kept is None else kept.rows
        done = {(row.arm, row.seed) for row in rows if not row.failed}
        tasks = [task for task in mine if (task.arm.name, task.seed) not in done]
        again = {(task.arm.name, task.seed) for task in tasks}
        rows = [row for row in rows if (row.arm, row.seed) not in again]
        tell(study.name, len(mine) - len(tasks), len(mine))
        try:
            found = _rows(study, tasks, backend=backend, jobs=jobs, address=address)
            with closing(found):  # whatever happens here, the workers are stopped
                for count, row in enumerate(found, start=1):
                    if kept is not None:
                        kept.add(row)
                    rows.append(row)
                    tell(study.name, len(mine) - len(tasks) + count, len(mine))
            if part is not None and len(rows) < len(planned):
                outcome = f"part {part[0]} of {part[1]}"
        except KeyboardInterrupt:
            outcome = "interrupted"
    return result_of(study, setting, rows, outcome=outcome)


def _part(planned: Sequence[Task], part: tuple[int, int]) -> list[Task]:
    """Whole seeds, so that what is compared was measured on one machine."""
    at, parts = part
    seeds = sorted({task.seed for task in planned})
    if not 1 <= at <= parts or at > len(seeds):
        raise UnstickError(
            f"part {at} of {parts} of {len(seeds)} seeds; expected a part from 1 to as many as there are, each of one seed at least"
        )
    mine = seeds[at - 1 :: parts]
    return [task for task in planned if task.seed in mine]


def results_of(folder: Path, *, data_dir: Path | None = None) -> list[StudyResult]:
    """Decide by what a folder of stores holds, without running anything.

    Raises:
        BadStore: No store, or one of a study that is not known, or of other code.
    """
    paths = sorted(folder.glob("*.jsonl"))
    if not paths:
        raise BadStore(f"no store in {folder}; expected files such as ravine.jsonl")
    found: list[StudyResult] = []
    for path in paths:
        store = Store.read(path)
        study = find_study(store.header.get("place") or store.header["study"])
        setting = replace(store.setting, data_dir=data_dir)
        store.check(study, setting)
        planned = study.planned(setting)
        _check_planned(planned, store)
        outcome = "complete" if len(store.rows) >= len(planned) else "interrupted"
        found.append(result_of(study, setting, store.rows, outcome=outcome))
    return found


def _check_planned(planned: Sequence[Task], store: Store) -> None:
    """Refuse to leave out arms: which there are depends on the data that are here."""
    known = {task.arm.name for task in planned}
    more = [row.arm for row in store.rows if row.arm not in known]
    if more:
        raise BadStore(
            f"{store.path} holds arms that are not planned here, such as {more[0]!r}: data that they were measured on are "
            "missing, or arms have other names now; expected the folder of the data by --data-dir, or the code of then"
        )


def _check_given(study: Study, setting: Setting) -> None:
    """Refuse before the first arm what would fail in every one."""
    for name in ("data", "model"):
        if getattr(setting, name) is not None and name not in study.takes:
            taken = " and ".join(f"--{each}" for each in study.takes) or "neither data nor a model"
            raise UnstickError(f"{study.name} has its own {name}; it takes {taken}")
    if setting.data is None and setting.model is None:
        return
    data = load(setting.data or "xor", folder=setting.data_dir)
    if setting.model is not None and (setting.data is not None or setting.model != "conv"):
        Task(Arm("given"), setting.seed, setting).network(setting.model, data)


def _rows(
    study: Study, tasks: Sequence[Task], *, backend: str, jobs: int | None, address: str | None
) -> Rows:
    if not tasks:
        return
    if study.together is not None:
        yield from _at_once(study, tasks)
        return
    count = min(jobs or os.cpu_count() or 1, len(tasks))
    if backend == "here" or study.alone or (backend == "processes" and count == 1):
        for task in tasks:
            yield _measured(study, task)
        return
    # a worker finds the study by its name, and a user's files as seen from here
    piece = partial(
        _elsewhere, study.place or study.name, code=code_of(study), folder=str(Path.cwd())
    )
    if backend == "ray":
        yield from _on_cluster(piece, tasks, jobs=jobs, workers=count, address=address)
    else:
        yield from _in_processes(piece, tasks, jobs=count)


def _in_processes(piece: Callable[[Task], Row], tasks: Sequence[Task], *, jobs: int) -> Rows:
    """By joblib, in the order in which arms are finished."""
    joblib: Any = import_module("joblib")
    with joblib.parallel_config(backend="loky", n_jobs=jobs):
        pool = joblib.Parallel(return_as="generator_unordered", batch_size=1)
        try:
            yield from pool(joblib.delayed(piece)(task) for task in tasks)
        except BrokenProcessPool:
            raise UnstickError(
                "a process died while it measured, such as for want of memory; what --store holds stays: "
                "run the same command again with fewer --jobs, or with --backend here to see where"
            ) from None


def _on_cluster(
    piece: Callable[[Task], Row],
    tasks: Sequence[Task],
    *,
    jobs: int | None,
    workers: int,
    address: str | None,
) -> Rows:
    with joined(address, workers=workers) as ray:
        # without --jobs a cluster is given everything, and does as much at once as it can
        done = spread(ray, piece, tasks, ahead=jobs or len(tasks))
        with closing(done):
            for task, row in done:
                if isinstance(row, LostWorker):
                    row = Row(task.arm.name, task.seed, {}, 0.0, f"LostWorker: {row}")
                yield row


def _elsewhere(name: str, task: Task, *, code: str = "", folder: str = ".") -> Row:
    """In another process, perhaps of another machine."""
    with chdir(folder if Path(folder).is_dir() else "."):
        return _measured(_found(name, code), task)


@cache
def _found(name: str, code: str) -> Study:
    """The study of this name, once a process.

    Raises:
        UnstickError: The code here is another one: tables would mix two.
    """
    study = find_study(name)
    if code and code_of(study) != code:
        raise UnstickError(
            f"{name} is other code in a worker than here (of unstick, the study, or torch); expected the same: "
            "install the same everywhere, and leave it unchanged meanwhile"
        )
    return study


def _at_once(study: Study, tasks: Sequence[Task]) -> Rows:
    """Several tasks as one piece, such as a population; those it leaves out go one after the other."""
    assert study.together is not None
    left = {(task.arm.name, task.seed): task for task in tasks}
    begin = time.perf_counter()
    try:
        with one_thread(study.alone):
            for task, values in study.together(tasks):
                now = time.perf_counter()
                left.pop((task.arm.name, task.seed), None)
                yield Row(task.arm.name, task.seed, _checked(values), now - begin)
                begin = time.perf_counter()
    except Exception:  # noqa: BLE001, S110 - what fails at once is measured alone, where it says why
        pass
    for task in left.values():
        yield _measured(study, task)


def _measured(study: Study, task: Task) -> Row:
    """One arm on one seed; what a model or a measurement raises marks this arm and loses no other."""
    begin = time.perf_counter()
    values: Mapping[str, Value] = {}
    failed = ""
    try:
        with one_thread(study.alone):
            values = _checked(study.measure(task))
    except Exception as error:  # noqa: BLE001 - a user's model may raise anything
        failed = f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
    return Row(task.arm.name, task.seed, values, time.perf_counter() - begin, failed)


@contextmanager
def one_thread(free: bool = False) -> Generator[None]:
    """Compute with one thread inside; a study of time chooses its own."""
    threads = torch.get_num_threads()
    try:
        if not free:
            torch.set_num_threads(1)
        yield
    finally:
        torch.set_num_threads(threads)


def _checked(values: Mapping[str, Value]) -> dict[str, Value]:
    """Plain numbers, so that a row reads back as it was written."""
    return {name: _plain(value) for name, value in values.items()}


def _plain(value: Any) -> Value:
    if value is None or isinstance(value, bool | str | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else float(value)
    if isinstance(value, torch.Tensor):
        return tuple(value.double().flatten().tolist()) if value.ndim else float(value)
    if isinstance(value, list | tuple):
        return tuple(float(item) for item in value)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    return float(value)
