"""A search with its settings, on a copy of the model: walk the starts, judge their ends.

Answers: when is the end of a walk critical, gradient-flat or neither?
Does not answer: which steps a walk takes; that is ``steps``.
"""

import copy
import glob
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from unstick.critical.classifying import classify
from unstick.critical.curvature import Progress
from unstick.critical.flatness import Flatness, flatness_of, measure_flatness
from unstick.critical.found import Found
from unstick.critical.point import Kind
from unstick.critical.room import is_small, room_for_basis
from unstick.critical.steps import Walk, gradient_norm, levenberg_marquardt, newton_mr, walks_from
from unstick.errors import BadData, BadModel
from unstick.problem.problem import Problem
from unstick.record import number
from unstick.spectrum.inertia import inertia

__all__ = ["METHODS", "Task"]

METHODS = ("auto", "newton-mr", "levenberg-marquardt", "gradient-norm")
STEPS = {"newton-mr": 200, "levenberg-marquardt": 200, "gradient-norm": 2000}
EXACT = 500  # parameters up to which dense Hessians beat products
COLUMNS = 100  # Hessian products a Newton step, at most
SLACK = 100.0  # of the gradient's measured rounding error: its norm there is zero to the arithmetic
NUDGES = 4


class Task:
    """A search with its settings, on a copy of the model whose parameters may move and have the type computed in."""

    def __init__(
        self,
        problem: Problem,
        starts: Tensor,
        method: str,
        cutoff: float | None,
        steps: int | None,
        budget: float | None,
        seed: int,
        progress: Progress | None,
    ) -> None:
        self.starts = _checked(problem, starts)
        _check_settings(method, cutoff, steps, budget)
        self.own = _copy(problem)
        self.method = method if method != "auto" else self._best()
        self.cutoff, self.budget, self.seed = cutoff, budget, seed
        self.steps = STEPS[self.method] if steps is None else steps
        self.tell = progress or (lambda _stage, _done, _total: None)
        self.walks = walks_from(self.own, self.starts)

    def _best(self) -> str:
        exact = self.own.n <= EXACT and is_small(self.own)
        derivable = exact and self.own.hessian().mode != "difference"
        return "levenberg-marquardt" if derivable else "newton-mr"

    def run(self, members: list[int], done: Callable[[int, Walk], None]) -> None:
        """Walk the starts with these numbers to their ends."""
        before = self.own.spent.gradients

        def spent() -> bool:
            return self.budget is not None and self.own.spent.gradients - before >= self.budget

        walks = [self.walks[i] for i in members]
        if self.method == "levenberg-marquardt":
            levenberg_marquardt(
                self.own,
                walks,
                steps=self.steps,
                spent=spent,
                done=lambda k, walk: done(members[k], walk),
                tell=lambda ended: self.tell("critical points", ended, len(walks)),
            )
            return
        columns = room_for_basis(self.own, pairs=1, most=COLUMNS).columns
        walker = (
            partial(newton_mr, columns=columns) if self.method == "newton-mr" else gradient_norm
        )
        for k, walk in enumerate(walks):
            self.tell("critical points", k, len(walks))
            if spent():
                break
            walker(self.own, walk, steps=self.steps, spent=spent)
            done(members[k], walk)
        self.tell("critical points", len(walks), len(walks))

    def judged(self, walk: Walk) -> Found:
        """What is at the end of a walk."""
        before, own = self.own.spent, self.own
        own.write(walk.theta)
        loss, gradient = own.value_and_gradient()
        square = float(gradient.double().square().sum())
        rounding = _rounding(own, gradient, self.seed)
        flatness, counts, ratio = None, None, None
        small = is_small(own) and own.hessian().mode != "difference"
        if small:
            H = own.hessians(walk.theta.unsqueeze(0))[0]
            if bool(torch.isfinite(H).all()):
                flatness, signs = flatness_of(H, gradient), inertia(H)
                counts = (signs.positive, signs.zero, signs.negative)
                ratio = signs.minimum_ratio
        elif walk.ended != "interrupted":
            flatness = measure_flatness(own, gradient=gradient, seed=self.seed)
        cutoff = rounding if self.cutoff is None else self.cutoff
        ended = "converged" if walk.ended == "stalled" and square <= rounding else walk.ended
        return Found(
            outcome=_outcome(square, cutoff, rounding, flatness),
            ended=ended,
            method=self.method,
            parameters=walk.theta,
            loss=loss,
            gradient_norm_squared=square,
            cutoff=cutoff,
            rounding=rounding,
            flatness=flatness,
            inertia=counts,
            minimum_ratio=ratio,
            point=None,
            note="",
            losses=torch.tensor(walk.losses, dtype=torch.float64),
            squares=torch.tensor(walk.squares, dtype=torch.float64),
            start_loss=walk.losses[0],
            start_gradient_norm_squared=walk.squares[0],
            steps=walk.steps,
            cost=own.spent - before,
        )

    def classified(self, found: Found) -> Found:
        """The same with the verdict of ``classify``, and a note where the two rules differ."""
        self.own.write(found.parameters)
        point = classify(self.own, seed=self.seed, progress=self.tell)
        note = ""
        paid = f"going along −g pays {number(point.slope_decrease)}"
        if found.outcome == "critical" and point.kind == Kind.NOT_CRITICAL:
            note = f"classify says {point.kind}: {paid}, beyond the noise of the loss; the cut-off allows it"
        elif found.outcome != "critical" and point.kind not in (Kind.NOT_CRITICAL, Kind.UNDECIDED):
            note = (
                f"classify says {point.kind}: {paid}, little beside the curvature or the noise of the loss; ‖g‖² is above "
                "what rounding explains, so this is near a critical point at most"
            )
        return replace(found, point=point, note=note, cost=found.cost + point.cost)


def _outcome(square: float, cutoff: float, rounding: float, flatness: Flatness | None) -> str:
    flat = flatness is not None and flatness.flat
    if square <= cutoff and (square <= rounding or not flat):
        return "critical"
    return "gradient-flat" if flat else "neither"


def _rounding(problem: Problem, gradient: Tensor, seed: int) -> float:
    """‖g‖² that the arithmetic alone explains; see ``find_critical_point``. Cost: 4 gradients."""
    theta = problem.parameters()
    size = max(1.0, float(torch.linalg.vector_norm(theta.double())))
    last = torch.finfo(theta.dtype).eps * theta.abs().clamp_min(size / math.sqrt(len(theta)))
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(0, 2, (NUDGES, len(theta)), generator=generator, dtype=torch.int8)
    nudged = theta + last * (2 * signs - 1).to(theta)
    changes = (problem.gradients(nudged) - gradient).double().norm(dim=1)
    return (SLACK * float(changes.nan_to_num(0.0, 0.0, 0.0).max())) ** 2


def _copy(problem: Problem) -> Problem:
    """The same problem with a copy of the model, its trainable parameters in the type computed in."""
    try:
        model = copy.deepcopy(problem.model)
    except Exception as error:  # whatever a user's modules raise
        why = " ".join(str(error).split("\n")[0].split())[:120]
        raise BadModel(
            f"the model cannot be copied ({type(error).__name__}: {why}); the search moves a copy: expected a model that "
            "copy.deepcopy takes"
        ) from error
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(problem.dtype)
    own = problem.with_model(model)
    if own.layout.names != problem.layout.names:  # only a part of the parameters is asked for
        own = own.restrict([glob.escape(name) for name in problem.layout.names])
    return own


def _checked(problem: Problem, starts: Tensor) -> Tensor:
    if starts.ndim != 2 or starts.shape[1] != problem.n or len(starts) == 0:
        raise BadData(
            f"the starts have shape {list(starts.shape)}; expected [m, {problem.n}], a parameter vector a row"
        )
    if not bool(torch.isfinite(starts).all()):
        raise BadData("the starts hold inf or nan; expected finite parameters")
    return starts.detach().to(problem.device, problem.dtype)


def _check_settings(
    method: str, cutoff: float | None, steps: int | None, budget: float | None
) -> None:
    if method not in METHODS:
        raise BadModel(f"method is {method!r}; expected one of {', '.join(METHODS)}")
    if cutoff is not None and not 0 <= cutoff < math.inf:
        raise BadData(f"cutoff is {cutoff}; expected a squared gradient norm ≥ 0")
    if steps is not None and steps < 1:
        raise BadData(f"steps is {steps}; expected at least 1")
    if budget is not None and not budget > 0:
        raise BadData(f"budget is {budget}; expected gradients, more than 0")
