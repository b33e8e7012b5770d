"""Find critical points of any index: walk ‖∇L‖ down to the end, then say what is there.

Answers: which critical points are near these starts, saddles and maxima included, and which ends are not critical?
Does not answer: which of them training visits.
"""

from dataclasses import replace
from pathlib import Path

from torch import Tensor

from unstick.critical.curvature import Progress
from unstick.critical.found import Found, Search
from unstick.critical.keeping import Store, fingerprint
from unstick.critical.searching import METHODS, Task
from unstick.critical.steps import Walk
from unstick.errors import BadData
from unstick.problem.problem import Problem

__all__ = ["METHODS", "Found", "Search", "find_critical_point", "find_critical_points"]


def find_critical_point(
    problem: Problem,
    *,
    start: Tensor | None = None,
    method: str = "auto",
    cutoff: float | None = None,
    steps: int | None = None,
    budget: float | None = None,
    seed: int = 0,
    apply: bool = False,
    progress: Progress | None = None,
) -> Found:
    """Walk from a start down ‖∇L‖ to the end, and classify what is there: a saddle as readily as a minimum.

    The walk is never stopped at the cut-off: many ends that look critical at 1e-8 are not (Frye et al. 2021).

    *Critical* is an end whose ‖g‖² is at most ``cutoff``, and either at most ``rounding`` or not in the Hessian's kernel:
    a gradient that the Hessian does not see is not on its way to zero, however small it is. ``rounding`` is (100·δ)², δ the
    largest change of the gradient under changes of θ by eps·max(|θᵢ|, max(1, ‖θ‖)/√n) in entry i: what the arithmetic
    makes of ‖H‖‖θ‖ and of the sums behind g.

    Args:
        problem: What is minimized; the model stays where it is unless ``apply``.
        start: Shape [n]; None: the model's parameters.
        method: "levenberg-marquardt" (dense Hessians), "newton-mr" or "gradient-norm" (Hessian products); auto takes the
            first up to 500 parameters where a dense Hessian takes seconds, else the second.
        cutoff: ‖g‖² at most this may be critical; None: ``rounding``.
        steps: Most steps tried; None: 200, of gradient-norm 2000.
        budget: Most work of the walk, in full-data gradients; None: only the steps bound it. What follows it, a dense
            Hessian and ``classify``, comes on top.
        seed: Seed of the changes of θ, of estimates and of ``classify``.
        apply: Move the model to the end, rounded to its own type.
        progress: Called with (stage, done, total).

    Returns:
        The end, with inertia, flatness and the full verdict of ``classify``, whose own rule may differ: then ``note``
        says so. On Ctrl-C the place that was reached, unclassified, with ``ended`` "interrupted".

    Raises:
        BadData: The start has another shape or is not finite, or a number is out of range.
        BadModel: Sharded parameters, an unknown method, or a model that cannot be copied or has no dense Hessian.

    Cost:
        Levenberg-Marquardt 2·n + 1 gradients an accepted step and one a rejected one; Newton-MR up to 100 products a
        step. At a cost of its own: the copy of the model that is walked on does not count in ``problem.spent``.

    References:
        Frye et al. (2021), Critical point-finding methods reveal gradient-flat regions of deep network losses,
        Neural Computation 33.

    Example:
        >>> import torch
        >>> problem = Problem.from_function(lambda x: (1 - x[0] * x[1]) ** 2, torch.tensor([0.2, -0.1]))
        >>> found = find_critical_point(problem)
        >>> found.outcome, found.inertia, found.parameters.abs().max() < 1e-9
        ('critical', (1, 0, 1), tensor(True))
    """
    problem.require_whole("find_critical_point")
    given = problem.parameters() if start is None else start
    if given.ndim != 1:
        raise BadData(f"the start has shape {list(given.shape)}; expected [{problem.n}]")
    task = Task(problem, given.unsqueeze(0), method, cutoff, steps, budget, seed, progress)
    [walk] = task.walks
    try:
        task.run([0], lambda _index, _walk: None)
    except KeyboardInterrupt:
        walk.ended = "interrupted"
    found = task.judged(walk)
    if walk.ended != "interrupted":
        found = task.classified(found)
    found = replace(found, cost=task.own.spent)
    if apply:
        problem.write(found.parameters)
    return found


def find_critical_points(
    problem: Problem,
    starts: Tensor,
    *,
    method: str = "auto",
    cutoff: float | None = None,
    steps: int | None = None,
    budget: float | None = None,
    seed: int = 0,
    points: bool = False,
    store: str | Path | None = None,
    progress: Progress | None = None,
) -> Search:
    """``find_critical_point`` from many starts; Levenberg-Marquardt walks them all at once.

    Args:
        problem: What is minimized; the model stays where it is.
        starts: Shape [m, n]; ``starts_along`` and ``starts_around`` make some.
        method: As for one start.
        cutoff: As for one start.
        steps: As for one start; of each.
        budget: Most work of all walks together, in full-data gradients.
        seed: As for one start.
        points: Classify each end in full; else only inertia and flatness are measured.
        store: A file that every finished start is written to at once. If it exists and belongs to the same problem,
            starts and settings, only the starts missing in it are walked.
        progress: Called with (stage, done, total).

    Returns:
        All ends, in the order of the starts. On Ctrl-C those that ended, and where the others had got to.

    Raises:
        BadData, BadModel: As for one start.
        Unreadable: ``store`` is the file of another search, or something else.

    Example:
        >>> import torch
        >>> problem = Problem.from_function(lambda x: x[0] ** 4 / 4 - x[0] ** 2 / 2, torch.zeros(1))
        >>> found = find_critical_points(problem, torch.tensor([[-0.8], [0.2], [1.5]]))
        >>> [round(float(end.parameters), 6) + 0.0 for end in found.founds], found.counts["critical"]
        ([-1.0, 0.0, 1.0], 3)
    """
    problem.require_whole("find_critical_points")
    task = Task(problem, starts, method, cutoff, steps, budget, seed, progress)
    settings = {"method": task.method, "cutoff": cutoff, "steps": task.steps, "seed": seed}
    kept = None if store is None else Store(store, fingerprint(task.own, task.starts, settings))
    founds = {} if kept is None else dict(kept.done)
    resumed = len(founds)

    def done(index: int, walk: Walk) -> None:
        founds[index] = task.judged(walk)
        if kept is not None and walk.ended != "budget":
            kept.add(index, founds[index])

    outcome = "complete"
    try:
        task.run([i for i in range(len(task.walks)) if i not in founds], done)
    except KeyboardInterrupt:
        outcome = "interrupted"
    for index, walk in enumerate(task.walks):
        if index not in founds and walk.steps:
            walk.ended = "interrupted"
            founds[index] = task.judged(walk)
    if points and outcome == "complete":
        founds = {index: task.classified(found) for index, found in founds.items()}
    ended = {found.ended for found in founds.values()}
    if outcome == "complete" and ("budget" in ended or len(founds) < len(task.walks)):
        outcome = "budget"
    ordered = tuple(founds[index] for index in sorted(founds))
    return Search(ordered, len(task.walks), resumed, outcome, task.own.spent)
