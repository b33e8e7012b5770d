"""The plane that holds most of a training's trajectory, with the trajectory drawn on it.

Answers: which way did the parameters go, and what is the loss beside their way?
Does not answer: what the directions outside the plane did; ``explained`` says how much that is.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from unstick.errors import BadData
from unstick.landscape.grid import Progress, in_blocks, measure_grid
from unstick.landscape.line import notes_of
from unstick.landscape.plane import Plane, shaped, unfolded
from unstick.problem.problem import Problem

__all__ = ["trajectory_plane"]

NAMES = ("first principal component", "second principal component")
STRAIGHT = 1e-6  # singular values in this ratio: the trajectory is a line to the arithmetic
COLUMNS = 2**22  # of the trajectory in float64 at once
WALK = (
    "high shares are no finding by themselves: measured from its end, a random walk in many dimensions has 81 % and 9 % "
    "along its first two components"
)


def trajectory_plane(
    problem: Problem,
    trajectory: Tensor,
    *,
    points: int = 31,
    margin: float = 0.2,
    measures: Sequence[str] = ("loss",),
    store: str | Path | None = None,
    progress: Progress | None = None,
) -> Plane:
    """Measure on the plane of the two principal components of a trajectory, through its last point.

    The components are those of the differences to the last point, which is the origin of both axes; no mean is taken
    out. The way begins on the negative side of both.

    Args:
        problem: What is minimized; its own parameters do not matter, its buffers are used throughout.
        trajectory: Parameters [k, n] in the order of training.
        points: A side of the grid.
        margin: How much to show around the trajectory, as a fraction of its width and height.
        measures: As for ``scan``.
        store: As for ``scan``.
        progress: As for ``scan``.

    Returns:
        A plane with ``path`` [k, 2], the trajectory's projections; ``path_losses`` [k], the losses of the trajectory
        itself; ``explained``, the share of its squared distances to the last point along each axis. The
        axes are orthonormal.

    Raises:
        BadData: A misshapen trajectory, or one that spans no plane; or as for ``scan``.
        BadModel, Unreadable, KeyboardInterrupt: As for ``scan``.

    Cost:
        As a scan of points² points, and k thirds of a gradient.

    References:
        Li, Xu, Taylor, Studer, Goldstein (2018), Visualizing the loss landscape of neural nets, section 7.
        Antognini, Sohl-Dickstein (2018), PCA of high dimensional random walks with comparison to neural network training.
    """
    problem.require_whole("a plane of a trajectory")
    if trajectory.ndim != 2 or trajectory.shape[1] != problem.n or len(trajectory) < 3:
        raise BadData(
            f"the trajectory has shape {list(trajectory.shape)}; expected [k, {problem.n}] with at least 3 points"
        )
    if not bool(torch.isfinite(trajectory).all()):
        raise BadData(
            "the trajectory holds parameters that are not finite; expected the points before"
        )
    if points < 2 or margin < 0:
        raise BadData(f"points={points} and margin={margin}; expected at least 2, and at least 0")
    before = problem.spent
    directions, path, explained = _components(trajectory.detach())
    span = [_span(path[:, axis], points, margin) for axis in (0, 1)]
    x, y = span
    path_losses = torch.cat([problem.values(block) for block in in_blocks(problem, trajectory)])
    grid = measure_grid(
        problem,
        trajectory[-1].to(problem.device, problem.dtype),
        directions.to(problem.device, problem.dtype),
        unfolded(x, y),
        measures=measures,
        stage="plane",
        store=store,
        progress=progress,
    )
    return Plane(
        x=x,
        y=y,
        losses=grid.losses.reshape(len(y), len(x)),
        x_name=NAMES[0],
        y_name=NAMES[1],
        cosine=0.0,
        accuracies=shaped(grid.accuracies, x, y),
        gradient_norms=shaped(grid.gradient_norms, x, y),
        path=path,
        path_losses=path_losses,
        explained=explained,
        notes=(WALK, *notes_of(problem)),
        outcome=grid.outcome,
        cost=problem.spent - before,
    )


def _components(trajectory: Tensor) -> tuple[Tensor, Tensor, tuple[float, float]]:
    """The components [2, n] and projections [k, 2] in float64, and the shares; by the k × k matrix of inner products."""
    width = max(1, COLUMNS // len(trajectory))
    blocks = trajectory.split(width, dim=1)

    def away(block: Tensor) -> Tensor:
        wide = block.double()
        return wide - wide[-1]

    gram = torch.zeros(len(trajectory), len(trajectory), dtype=torch.float64)
    for block in blocks:
        gram += (away(block) @ away(block).T).cpu()
    squares, vectors = torch.linalg.eigh(gram)
    sizes = squares.clamp_min(0).sqrt().flip(0)[:2]
    if not float(sizes[1]) > STRAIGHT * float(sizes[0]):
        raise BadData(
            "the trajectory is a point or a straight line; expected one that spans a plane: scan shows a line"
        )
    weights = vectors.flip(1)[:, :2] / sizes
    weights = weights * torch.where(vectors.flip(1)[0, :2] > 0, -1.0, 1.0)
    found = torch.cat([away(block).T @ weights.to(block.device) for block in blocks])
    directions = torch.linalg.qr(found).Q  # inner products square the rounding
    directions = directions * (directions * found).sum(0).sign()
    path = torch.zeros(len(trajectory), 2, dtype=torch.float64)
    for block, part in zip(blocks, directions.split(width), strict=True):
        path += (away(block) @ part).cpu()
    total = float(gram.diagonal().sum())
    shares = (path**2).sum(0) / total
    return directions.T, path, (float(shares[0]), float(shares[1]))


def _span(path: Tensor, points: int, margin: float) -> Tensor:
    """Distances from one end of the path to the other, and some way beyond."""
    low, high = float(path.min()), float(path.max())
    more = margin * (high - low)
    return torch.linspace(low - more, high + more, points, dtype=torch.float64)
