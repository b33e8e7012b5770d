"""Critical points of a run, looked for from many places.

Answers: which critical points lie near the way of this training, or around its present parameters?
Does not answer: which of them training would reach.
"""

from pathlib import Path

import torch

from unstick.critical.finding import find_critical_points
from unstick.critical.found import Search
from unstick.critical.starts import starts_along, starts_around
from unstick.diagnosis.run import Run
from unstick.diagnosis.trajectory import Progress, trajectory

__all__ = ["search_critical_points"]

POINTS = 200  # of a trajectory that starts are chosen from


def search_critical_points(
    run: Run,
    *,
    starts: int,
    updates: int | None = None,
    noise: float = 0.0,
    method: str = "auto",
    steps: int | None = None,
    budget: float | None = None,
    points: bool = False,
    seed: int = 0,
    store: str | Path | None = None,
    progress: Progress | None = None,
) -> Search:
    """Find critical points from many starts at once; the run stays as it is.

    Args:
        run: The problem, and how it is trained.
        starts: How many.
        updates: Train a copy for so many, and start from points of its way that are uniform in loss, every other one
            moved by ``noise``; the last one from where it ended. None: start around the present parameters, moved by ``noise``.
        noise: Standard deviation of a normal nudge of every parameter.
        method: As for ``find_critical_points``, and so the next three.
        steps: Of each search, at most.
        budget: In full-data gradients, at most; None: as many as it takes.
        points: Classify each end fully.
        seed: Of the training, the choice of points, the noise and the searches.
        store: A file that keeps finished searches, and goes on from them.
        progress: Called with (stage, done, total).

    Raises:
        BadData: Counts or noise out of range, a store of another search, or no start that differs from the others.

    Cost:
        The training, and the searches; see ``find_critical_points``.
    """
    problem = run.problem
    if updates is None:
        chosen = starts_around(problem, count=starts, scale=noise, seed=seed)
    else:
        way = trajectory(run, updates=updates, points=POINTS, seed=seed, progress=progress)
        chosen = way.thetas[-1:]
        if starts > 1:
            along = starts_along(way.thetas, way.losses, count=starts - 1, noise=noise, seed=seed)
            chosen = torch.cat([along, chosen])
    return find_critical_points(
        problem,
        chosen,
        method=method,
        steps=steps,
        budget=budget,
        points=points,
        seed=seed,
        store=store,
        progress=progress,
    )
