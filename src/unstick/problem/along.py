"""Losses at many points of a line, a plane or another affine set of parameter vectors.

Answers: L(θ₀ + Σ cᵢ dᵢ) at many c, for less than as many separate evaluations.
Does not answer: anything about other sets of points; ``values`` takes any.

What is affine in the parameters is computed once for θ₀ and each direction, and added up at each point; the rest runs
from a record, on samples and points that stay in the cache, one thread a point.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor
from torch.func import jvp

from unstick.errors import BadData, UnstickError
from unstick.problem.affine import Cut, cut, together
from unstick.problem.batches import Batch, leaves, size_of, split_rows
from unstick.problem.evaluation import REFUSALS, Evaluation
from unstick.problem.linearization import form

__all__ = ["check_along", "displaced", "values_along"]

LEAST_POINTS = 32  # fewer do not pay for a record
MOST_DIRECTIONS = 8  # of more, adding up would cost more than it saves
CACHE = (
    2**19
)  # numbers in the largest tensor that is worked on at once; measured best from 2**18 to 2**19
MOST_TOGETHER = 64
HELD = 2**26  # numbers that what is affine may hold, for all directions
BLOCK = 2**26  # numbers in a block of displaced parameter vectors
TASKS = 4  # a thread, for each piece of the data

Progress = Callable[[float, float], None]


def values_along(
    evaluation: Evaluation,
    weigh: Callable[[Batch], float],
    origin: Tensor,
    directions: Tensor,
    coordinates: Tensor,
    *,
    notes: list[str],
    progress: Progress | None = None,
) -> Tensor:
    """L at ``origin + coordinates @ directions``; inf and nan stay.

    Args:
        evaluation: Of whole parameter vectors.
        weigh: What the mean of a batch counts for.
        origin: Shape [n].
        directions: Shape [k, n].
        coordinates: Shape [m, k], finite.
        notes: Takes a line where a model cannot be recorded, or its record is found to differ.
        progress: Called with points done and points in all.

    Returns:
        Losses [m] float64. At the first, the middle and the last point they have been compared with separate
        evaluations; where they differed by more than rounding, all are separate evaluations.

    Cost:
        m values. Before the first, some tenths of a millisecond for each operation of the model.
    """
    directions, coordinates = directions.to(origin), coordinates.to(origin)
    m, meter = len(coordinates), evaluation.meter
    with meter.timed(), evaluation.visit(), torch.no_grad():

        def work() -> list[Tensor]:
            before = meter.spent
            found = torch.zeros(m, dtype=torch.float64)
            if evaluation.batches:
                # The mean over this process's samples; its weight decay is that of all.
                mine = replace(evaluation.on(evaluation.batches, evaluation.weights), decay=None)
                share = sum(evaluation.weights) / evaluation.weight
                found = share * _mine(mine, weigh, origin, directions, coordinates, notes, progress)
            meter.recount(before, "value", m * evaluation.samples)
            return [found]

        [total] = evaluation.pooled(work)
    return total + _decays(evaluation.decay, origin, directions, coordinates)


def check_along(
    origin: Tensor, directions: Tensor, coordinates: Tensor, n: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The three, if their shapes fit together and their numbers are finite; detached.

    Raises:
        BadData: Not so.
    """
    k = directions.shape[0] if directions.ndim == 2 else None
    shapes = {"origin": [n], "directions": [k or "k", n], "coordinates": ["m", k or "k"]}
    given = {"origin": origin, "directions": directions, "coordinates": coordinates}
    for name, tensor in given.items():
        expected = shapes[name]
        fits = tensor.ndim == len(expected) and all(
            isinstance(length, str) or length == found
            for length, found in zip(expected, tensor.shape, strict=True)
        )
        if not fits:
            told = ", ".join(map(str, expected))
            raise BadData(f"{name} has shape {list(tensor.shape)}; expected [{told}]")
        if not torch.isfinite(tensor).all():
            raise BadData(f"{name} holds inf or nan; expected finite numbers")
    return origin.detach(), directions.detach(), coordinates.detach()


def displaced(
    values: Callable[[Tensor], Tensor],
    origin: Tensor,
    directions: Tensor,
    coordinates: Tensor,
    *,
    progress: Progress | None = None,
) -> Tensor:
    """The same by ``values`` of parameter vectors [m, n], a block after another."""
    found = [torch.zeros(0, dtype=torch.float64)]
    for part in coordinates.split(max(1, BLOCK // max(1, len(origin)))):
        found.append(values(torch.addmm(origin, part, directions)))
        if progress is not None:
            progress(sum(map(len, found)), len(coordinates))
    return torch.cat(found)


def _mine(
    mine: Evaluation,
    weigh: Callable[[Batch], float],
    origin: Tensor,
    directions: Tensor,
    coordinates: Tensor,
    notes: list[str],
    progress: Progress | None,
) -> Tensor:
    """The losses of this process's part, by the record if that is right."""
    m, k = coordinates.shape
    if m >= LEAST_POINTS and 1 <= k <= MOST_DIRECTIONS:
        try:
            found = _Recorded(mine, weigh, origin, directions, coordinates).values(progress)
            places = torch.tensor([0, m // 2, m - 1])
            plain = displaced(
                mine.values, origin, directions, coordinates[places.to(origin.device)]
            )
            if _agree(found[places], plain, origin.dtype):
                return found
            why = f"found {found[places].tolist()} where separate evaluations give {plain.tolist()}"
        except (UnstickError, *REFUSALS) as error:
            why = str(error).strip().split("\n")[0]
        told = f"losses along directions: each point evaluated by itself ({why})"
        if told not in notes:
            notes.append(told)
    return displaced(mine.values, origin, directions, coordinates, progress=progress)


def _agree(found: Tensor, plain: Tensor, dtype: torch.dtype) -> bool:
    """Whether losses are the same up to rounding, and inf and nan in the same places."""
    finite = torch.isfinite(plain)
    if not torch.equal(finite, torch.isfinite(found)):
        return False
    scale = float(plain[finite].abs().max()) if finite.any() else 0.0
    apart = (found - plain)[finite].abs()
    return bool((apart <= torch.finfo(dtype).eps ** (2 / 3) * scale).all())


def _decays(
    decay: Tensor | None, origin: Tensor, directions: Tensor, coordinates: Tensor
) -> Tensor:
    """The weight decay ½ Σ decay θ² at every point, a quadratic form of its coordinates."""
    if decay is None:
        return torch.zeros(len(coordinates), dtype=torch.float64)
    vectors = torch.cat([origin[None], directions]).double()
    products = (vectors * decay) @ vectors.T
    at = torch.cat([torch.ones_like(coordinates[:, :1]), coordinates], dim=1).double()
    return (0.5 * ((at @ products) * at).sum(1)).cpu()


@dataclass(frozen=True)
class _Piece:
    """Some samples of a batch, and what part of the mean they are."""

    batch: Batch
    share: float
    cut: Cut


class _Recorded:
    """The losses of recorded batches, at all points of one piece of the data after another."""

    def __init__(
        self,
        evaluation: Evaluation,
        weigh: Callable[[Batch], float],
        origin: Tensor,
        directions: Tensor,
        coordinates: Tensor,
    ) -> None:
        self.evaluation, self.weigh = evaluation, weigh
        self.origin, self.directions, self.coordinates = origin, directions, coordinates
        self.cuts: dict[Any, Cut] = {}
        self.joint: dict[Any, Any] = {}
        self._adds_up: bool | None = None
        self.threads = torch.get_num_threads() if origin.device.type == "cpu" else 1
        self.stopped = threading.Event()

    def values(self, progress: Progress | None) -> Tensor:
        """Losses [m] float64."""
        pieces = self._pieces()
        total = torch.zeros(len(self.coordinates), dtype=torch.float64)
        for done, piece in enumerate(pieces):
            total += piece.share * self._piece(piece)
            if progress is not None:
                progress(len(total) * (done + 1) / len(pieces), len(total))
        return total

    def _pieces(self) -> list[_Piece]:
        """The batches, cut to pieces that stay in the cache where the loss is a mean over samples."""
        ours, pieces = self.evaluation, list[_Piece]()
        for share, batch in zip(ours.shares, ours.batches, strict=True):
            found, parts = self._cut(batch), [batch]
            # What is done for θ itself, at each point of each piece, must stay a small part.
            room = max(CACHE, 8 * len(self.origin))
            if found.largest > room and self._splits:
                parts = split_rows(batch, max(1, (size_of(batch) or 1) * room // found.largest))
            weights = [self.weigh(part) for part in parts] if len(parts) > 1 else [1.0]
            pieces += [
                _Piece(part, share * weight / sum(weights), self._cut(part))
                for part, weight in zip(parts, weights, strict=True)
                if weight > 0  # the mean of nothing is 0/0
            ]
        return pieces

    @property
    def _splits(self) -> bool:
        if self._adds_up is None:
            self._adds_up = self.evaluation.adds_up(self.weigh)
        return self._adds_up

    def _cut(self, batch: Batch) -> Cut:
        kind = form(batch)
        if kind not in self.cuts:
            most = HELD // (1 + len(self.directions))
            self.cuts[kind] = cut(self.evaluation.batch_loss, self.origin, batch, most=most)
        return self.cuts[kind]

    def _piece(self, piece: _Piece) -> Tensor:
        """The losses of one piece of the data at all points."""
        cut, tensors = piece.cut, leaves(piece.batch)
        fixed = cut.fixed(self.origin, *tensors)
        moving = _moving(cut, self.origin, self.directions, tensors)
        width = self._width(cut)
        rest: Callable[..., Tensor] = cut.rest.forward
        if width > 1:
            try:
                key = id(cut), width
                if key not in self.joint:
                    given = [_at(part, self.coordinates[:1].expand(width, -1)) for part in moving]
                    self.joint[key] = together(cut.rest, given, fixed).forward
                rest = self.joint[key]
            except REFUSALS:
                width = 1
        losses = torch.zeros(len(self.coordinates), dtype=torch.float64)

        def task(points: range) -> None:
            with torch.inference_mode():
                for start in range(points.start, points.stop, width):
                    if self.stopped.is_set():
                        return
                    at = self.coordinates[start : min(start + width, points.stop)]
                    losses[start : start + len(at)] = _block(rest, moving, fixed, at, width)

        self._share_out(task, width)
        return losses

    def _width(self, cut: Cut) -> int:
        """How many points to work on at once: several where one is less than the cache."""
        if (
            cut.convolves
        ):  # a convolution of several filters at once is slower than one after another
            return 1
        fit = CACHE // max(cut.largest, len(self.origin))
        return max(1, min(MOST_TOGETHER, len(self.coordinates), fit))

    def _share_out(self, task: Callable[[range], None], width: int) -> None:
        """All points, in blocks, over the threads; each with one thread inside."""
        m = len(self.coordinates)
        if self.threads == 1:
            task(range(m))
            return
        blocks = -(-m // width)
        step = width * -(-blocks // (TASKS * self.threads))
        before = torch.get_num_threads()
        pool = ThreadPoolExecutor(self.threads, initializer=torch.set_num_threads, initargs=(1,))
        try:
            list(pool.map(task, [range(low, min(low + step, m)) for low in range(0, m, step)]))
        finally:
            self.stopped.set()  # after an error, such as Ctrl-C
            pool.shutdown(cancel_futures=True)
            self.stopped.clear()
            torch.set_num_threads(before)  # the other threads' number is what new ones start with


def _moving(
    cut: Cut, origin: Tensor, directions: Tensor, tensors: Sequence[Tensor]
) -> list[Tensor]:
    """What is affine, at the origin and its change along each direction: [1 + k, ...], exactly, by no differences."""
    here: Sequence[Tensor] = ()
    changes: list[Sequence[Tensor]] = []
    for direction in directions:
        here, change = cast("Any", jvp)(
            lambda theta: cut.affine(theta, *tensors), (origin,), (direction,)
        )
        changes.append(change)
    return [torch.stack(parts) for parts in zip(here, *changes, strict=True)]


def _at(moving: Tensor, coordinates: Tensor) -> Tensor:
    """What is affine, at several points: [points, ...]. Broadcast products beat a thin product of matrices."""
    columns = coordinates.T.reshape(-1, len(coordinates), *(1 for _ in moving.shape[1:]))
    found = torch.addcmul(moving[0], columns[0], moving[1])
    for column, change in zip(columns[1:], moving[2:], strict=True):
        found.addcmul_(column, change)
    return found


def _block(
    rest: Callable[..., Tensor],
    moving: Sequence[Tensor],
    fixed: Sequence[Tensor],
    at: Tensor,
    width: int,
) -> Tensor:
    """The losses at up to ``width`` points."""
    if width == 1:
        return rest(*(_at(part, at)[0] for part in moving), *fixed)
    full = at if len(at) == width else torch.cat([at, at[-1:].expand(width - len(at), -1)])
    return rest(*(_at(part, full) for part in moving), *fixed)[: len(at)]
