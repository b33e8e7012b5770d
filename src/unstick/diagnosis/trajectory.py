"""The parameters that a training passes through: what finders start from and planes are laid through.

Answers: where was this training after so many updates?
Does not answer: whether a point on the way is critical (``critical``), or what lies beside it (``landscape``).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim import SGD

from unstick.critical.curvature import Progress
from unstick.diagnosis.bench import Bench
from unstick.diagnosis.copies import Copy
from unstick.diagnosis.run import Run
from unstick.errors import BadData
from unstick.problem.cost import Cost
from unstick.problem.layout import layout_of
from unstick.problem.problem import Problem
from unstick.record import Fact, Record, number

__all__ = ["Trajectory", "trajectory"]

MOST_BYTES = 2**30  # of the parameters that are kept
RATE = 0.1  # of gradient descent, where the run has no optimizer
BLEW_UP = "diverged"


@dataclass(frozen=True, slots=True, eq=False)
class Trajectory(Record):
    """Parameters along a training, with the loss of all data at each of them."""

    thetas: Tensor  # [k, n], the first one where it began
    losses: Tensor  # [k] float64, weight decay included, with the model's statistics as they were at the beginning
    updates: tuple[int, ...]  # [k] updates done at each
    optimizer: str
    batch_size: int
    outcome: str  # "complete", "diverged" or "interrupted"
    cost: Cost

    def headline(self) -> str:
        """From where to where."""
        first, last = number(float(self.losses[0])), number(float(self.losses[-1]))
        return (
            f"{len(self.updates):,} points of {self.updates[-1]:,} updates by {self.optimizer}: "
            f"the loss went from {first} to {last}."
        )

    def facts(self) -> list[Fact]:
        """How it was trained, and how far it got."""
        moved = float(torch.linalg.vector_norm(self.thetas[-1] - self.thetas[0]))
        return [
            ("optimizer", self.optimizer),
            ("batch size", f"{self.batch_size:,}"),
            ("lowest loss", number(float(self.losses.min()))),
            ("distance", number(moved)),
            ("outcome", self.outcome),
            ("cost", str(self.cost)),
        ]


def trajectory(
    run: Run, *, updates: int, points: int = 50, seed: int = 0, progress: Progress | None = None
) -> Trajectory:
    """Train a copy of a run and keep its parameters on the way; the run stays as it is.

    Args:
        run: The problem, and how it is trained. Without an optimizer: gradient descent on all data at rate 0.1.
        updates: How many.
        points: Points kept, the first and the last included; evenly spaced in updates.
        seed: Of the batches and of noise inside the model.
        progress: Called with (stage, done, total).

    Returns:
        The points. Where the training blew up, those before it; on Ctrl-C, those reached.

    Raises:
        BadData: Fewer than one update or two points, more numbers than 1 GiB holds, or another model's optimizer.
        BadModel: The parameters are sharded.

    Cost:
        The training, and a third of a gradient a point.

    Example:
        >>> from unstick.problem.problem import Problem
        >>> problem = Problem.from_function(lambda x: (x**2).sum(), torch.ones(2))
        >>> told = trajectory(Run(problem), updates=4, points=3)
        >>> told.updates, [round(x, 4) for x in told.losses.tolist()]
        ((0, 2, 4), [2.0, 0.8192, 0.3355])
    """
    problem = run.problem
    problem.require_whole("trajectory")
    stops = _stops(updates, points)
    if len(stops) * problem.n * problem.dtype.itemsize > MOST_BYTES:
        raise BadData(
            f"{len(stops)} points of {problem.n:,} parameters take more than 1 GiB; expected fewer: "
            f"points={MOST_BYTES // (problem.n * problem.dtype.itemsize)}"
        )
    before = problem.spent
    given = run.optimizer
    if given is None:
        run = Run(problem, _descent(problem), run.batch_size, clip_norm=run.clip_norm)
    bench = Bench(run, problem)
    if not bench.fits:
        raise BadData(
            f"the optimizer ({type(given).__name__}) holds none of the model's parameters; expected one made from "
            "model.parameters()"
        )
    copy = Copy(bench, seed)
    kept, done, outcome = [problem.parameters()], [0], "complete"
    try:
        for stop in stops[1:]:
            copy.train(stop - done[-1])
            theta = layout_of(copy.model).read(problem.dtype)
            if copy.blew_up or not bool(torch.isfinite(theta).all()):
                outcome = BLEW_UP
                break
            kept.append(theta)
            done.append(stop)
            if progress is not None:
                progress("training", stop, updates)
    except KeyboardInterrupt:
        outcome = "interrupted"
    thetas = torch.stack(kept)
    name = "gradient descent" if given is None else type(given).__name__
    return Trajectory(
        thetas=thetas,
        losses=problem.values(thetas),
        updates=tuple(done),
        optimizer=name,
        batch_size=copy.batch_size,
        outcome=outcome,
        cost=problem.spent - before,
    )


def _descent(problem: Problem) -> SGD:
    """Gradient descent with the problem's own weight decay, which a copy's loss does not hold."""
    decay = problem.require_whole("trajectory").decay
    known = {} if decay is None else problem.layout.named(decay)
    groups = [
        {"params": [p], "weight_decay": float(known[name].flatten()[0]) if name in known else 0.0}
        for name, p in problem.model.named_parameters()
        if p.requires_grad
    ]
    return SGD(groups, lr=RATE)


def _stops(updates: int, points: int) -> Sequence[int]:
    """The updates after which a point is kept, 0 and the last included."""
    if updates < 1 or points < 2:
        raise BadData(
            f"updates={updates} and points={points}; expected at least 1 update and 2 points"
        )
    count = min(points, updates + 1)
    return [math.floor(updates * k / (count - 1) + 0.5) for k in range(count)]
