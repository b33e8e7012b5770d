"""Losses, accuracies and gradient norms at displaced parameters, row by row, kept on disk if wanted.

Answers: what is measured at origin + coordinates · directions, for many coordinates?
Does not answer: where to look.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import nan
from pathlib import Path

import torch
from torch import Tensor

from unstick.errors import BadData
from unstick.landscape.classes import accuracies
from unstick.landscape.store import Row, Store, fingerprint
from unstick.problem.problem import Problem

__all__ = ["MEASURES", "Grid", "Progress", "check_measures", "in_blocks", "measure", "measure_grid"]

Progress = Callable[[str, float, float], None]
"""Called with what is being done, how much of it is done, and how much there is."""

MEASURES = ("loss", "accuracy", "gradient norm")
TOGETHER = 2**26  # numbers in a block of displaced parameter vectors
WORK = (
    1e9  # parameters times samples times points measured between two looks at the keyboard, about
)
MOST_POINTS = 2048


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """What was measured at all points of all rows, in order; nan where an interruption left nothing."""

    losses: Tensor  # [points] float64
    accuracies: Tensor | None  # [points] float64
    gradient_norms: Tensor | None  # [points] float64
    outcome: str  # "complete" or "interrupted"


def measure_grid(
    problem: Problem,
    origin: Tensor,
    directions: Tensor,
    rows: Sequence[Tensor],
    *,
    measures: Sequence[str],
    stage: str,
    store: str | Path | None = None,
    progress: Progress | None = None,
) -> Grid:
    """Measure at origin + coordinates · directions, some rows together.

    They are always the same rows, so that a grid that was interrupted and resumed is that of one go, bit for bit.

    Args:
        problem: What is minimized.
        origin: Shape [n].
        directions: Shape [k, n].
        rows: Coordinates of each row's points, [m, k].
        measures: Of ``MEASURES``; the loss is always measured.
        stage: What to tell progress.
        store: A file to keep finished rows in, and to take them from.
        progress: Called with (stage, rows done, rows) before every group of rows, and at the end.

    Raises:
        BadData: An unknown measure, or a store of another scan.
        BadModel: No classes to measure accuracy by.
        Unreadable: The store is something else.
        KeyboardInterrupt: Only while there is no row; later the outcome is "interrupted".
    """
    chosen = check_measures(problem, measures)
    tell = progress or (lambda _stage, _done, _total: None)
    team = problem.team
    kept: Store | None = None
    found: dict[int, Row] = {}
    if store is not None:
        of = fingerprint(problem, origin, directions, rows, chosen)
        with team.together():
            kept = Store(Path(store), of) if team.rank == 0 else None
        found = dict(team.agree({} if kept is None else kept.rows))
    outcome = "complete"
    try:
        for group in _groups(problem, rows):
            if all(index in found for index in group):
                continue
            tell(stage, len(found), len(rows))
            parts = [rows[index] for index in group]
            for index, row in zip(
                group, _rows(problem, origin, directions, parts, chosen), strict=True
            ):
                with team.together():
                    if kept is not None and index not in found:
                        kept.append(index, row)
                found.setdefault(index, row)
        tell(stage, len(found), len(rows))
    except KeyboardInterrupt:
        if not found:
            raise
        outcome = "complete" if len(found) == len(rows) else "interrupted"

    def joined(measure: str) -> Tensor | None:
        if measure not in chosen:
            return None
        values = [found[k][measure] if k in found else [nan] * len(r) for k, r in enumerate(rows)]
        return torch.tensor([value for row in values for value in row], dtype=torch.float64)

    losses = joined("loss")
    assert losses is not None, "the loss is always measured"
    return Grid(losses, joined("accuracy"), joined("gradient norm"), outcome)


def check_measures(problem: Problem, measures: Sequence[str]) -> tuple[str, ...]:
    """The measures wanted, in order, the loss among them; refused before the work begins.

    Raises:
        BadData: An unknown one.
        BadModel: No classes to measure accuracy by.

    Cost:
        For accuracy, a third of a gradient.
    """
    given = (measures,) if isinstance(measures, str) else tuple(measures)
    if unknown := [repr(name) for name in given if name not in MEASURES]:
        raise BadData(f"measures name {', '.join(unknown)}; expected of {', '.join(MEASURES)}")
    if "accuracy" in given:
        accuracies(problem, problem.parameters().unsqueeze(0))
    return tuple(name for name in MEASURES if name == "loss" or name in given)


def measure(problem: Problem, thetas: Tensor, measures: Sequence[str]) -> Row:
    """What is measured at each row of ``thetas`` [m, n]."""
    row: Row = {}
    if "loss" in measures:
        row["loss"] = problem.values(thetas).tolist()
    if "accuracy" in measures:
        row["accuracy"] = accuracies(problem, thetas).tolist()
    if "gradient norm" in measures:
        gradients = problem.gradients(thetas)
        row["gradient norm"] = torch.linalg.vector_norm(gradients.double(), dim=1).tolist()
    return row


def in_blocks(problem: Problem, points: Tensor) -> Sequence[Tensor]:
    """Points [m, …] in as many at once as parameter vectors fit into a block."""
    return points.split(max(1, TOGETHER // problem.n))


def _groups(problem: Problem, rows: Sequence[Tensor]) -> list[list[int]]:
    """Numbers of the rows to measure together: as many as take some seconds, by size, not by any clock."""
    together = max(1, min(MOST_POINTS, int(WORK / (problem.n * max(1, problem.samples)))))
    groups: list[list[int]] = [[]]
    held = 0
    for index, row in enumerate(rows):
        if held >= together:
            groups.append([])
            held = 0
        groups[-1].append(index)
        held += len(row)
    return groups


def _rows(
    problem: Problem,
    origin: Tensor,
    directions: Tensor,
    rows: Sequence[Tensor],
    measures: Sequence[str],
) -> list[Row]:
    at = torch.cat(list(rows)).to(origin)
    found: Row = {"loss": problem.values_along(origin, directions, at).tolist()}
    for name in measures[1:]:  # all but the loss
        blocks = (origin + part @ directions for part in in_blocks(problem, at))
        found[name] = [value for block in blocks for value in measure(problem, block, [name])[name]]
    ends = [0, *accumulate(len(row) for row in rows)]
    return [
        {name: values[begin:end] for name, values in found.items()} for begin, end in pairwise(ends)
    ]
