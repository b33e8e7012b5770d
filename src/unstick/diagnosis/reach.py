"""What outputs a model can give at all, whatever its parameters, and how low the loss gets with those.

Answers: are the outputs bounded, and does that bound the loss?
Does not answer: what the parameters would have to be.

Outputs are looked at far out: at large multiples of the parameters and at large random ones. What does not grow from one
scale to ten times that is taken for bounded.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unstick.problem.batches import Batch
from unstick.problem.evaluation import REFUSALS
from unstick.problem.problem import Problem

__all__ = ["Given", "Reach", "are_shares", "reach_of"]

SCALES = (10.0, 100.0)  # far out
FAR = 6  # random directions that are followed far out, both ways
DRAWS = 10  # random parameters as large as the present ones, at least 1
GROWS = 1.05  # from the middle scale to the largest, for what is unbounded
ENDS = 0.02  # of the whole fall, that the last third of the steps may have
STEPS, RATE = 150, 0.3  # of Adam, on the outputs themselves


@dataclass(frozen=True, slots=True)
class Reach:
    """The outputs that were seen, and the loss of the best ones."""

    low: float  # −inf where outputs fall without end
    high: float  # inf where they rise
    shares: bool  # the outputs of a sample sum to one everywhere
    floor: float | None  # the loss that outputs of this kind have at best
    free: float | None  # the loss of any outputs at best

    @property
    def bounded(self) -> bool:
        """Whether some outputs cannot be had."""
        return self.shares or math.isfinite(self.low) or math.isfinite(self.high)


def reach_of(
    problem: Problem, batch: Batch, output: Tensor | None, generator: torch.Generator
) -> Reach | None:
    """Look at the outputs of a batch far out, and minimize the loss over such outputs.

    Args:
        problem: Of few samples.
        batch: Its first.
        output: Of the model, [N, …].
        generator: Of random parameters.

    Returns:
        None where outputs are no floating-point tensor or the loss cannot be taken of outputs alone.

    Cost:
        Forty forward passes, and three hundred losses of the outputs alone where they are bounded.
    """
    if output is None or not output.is_floating_point() or output.ndim < 1:
        return None
    theta = problem.parameters()
    width = max(1.0, float(theta.double().square().mean().sqrt()))
    drawn = [
        width * torch.randn(theta.shape, generator=generator, dtype=torch.float64).to(theta)
        for _ in range(DRAWS)
    ]
    far = [sign * way for way in (theta, *drawn[:FAR]) for sign in (1, -1)]
    seen = [[_outputs(problem, way, batch) for way in (theta, -theta, *drawn)]]
    seen += [[_outputs(problem, scale * way, batch) for way in far] for scale in SCALES]
    ranges: list[tuple[float, float]] = []
    for row in seen:
        finite = [values[torch.isfinite(values)] for values in row if values is not None]
        finite = [values for values in finite if len(values)]
        if not finite:
            return None
        ranges.append((min(float(v.min()) for v in finite), max(float(v.max()) for v in finite)))
    low, high = min(r[0] for r in ranges), max(r[1] for r in ranges)
    size = max(abs(low), abs(high), 1e-12)
    (low_1, high_1), (low_2, high_2) = ranges[1], ranges[2]
    if low_2 < 0 and low_2 < GROWS * min(low_1, 0.0) - 1e-9 * size:
        low = -math.inf
    if high_2 > 0 and high_2 > GROWS * max(high_1, 0.0) + 1e-9 * size:
        high = math.inf
    shares = all(v is not None and are_shares(v) for row in seen for v in row)
    reach = Reach(low, high, shares, None, None)
    if not reach.bounded:
        return reach
    floor = _lowest(problem, batch, output, reach)
    anything = Reach(-math.inf, math.inf, False, None, None)
    free = _lowest(problem, batch, output, anything, falls=False)
    if floor is None or free is None:
        return reach
    return Reach(low, high, shares, floor, min(free, floor))


class Given(nn.Module):
    """A model that answers the same, whatever it is asked."""

    def __init__(self, outputs: Tensor) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, *_args: object, **_named: object) -> Tensor:
        """The same for any arguments."""
        return self.outputs


def _outputs(problem: Problem, theta: Tensor, batch: Batch) -> Tensor | None:
    evaluation = problem.require_whole("diagnosis")
    final: list[Tensor] = []

    def keep(_module: nn.Module, _given: object, output: object) -> None:
        if isinstance(output, Tensor):
            final.append(output.detach().double())

    hook = evaluation.model.register_forward_hook(keep)
    try:
        with evaluation.visit(), torch.no_grad():
            evaluation.batch_loss(theta, batch)
    except REFUSALS:
        return final[-1] if final else None
    finally:
        hook.remove()
    return final[-1] if final else None


def are_shares(outputs: Tensor) -> bool:
    """Whether the outputs of every sample are not negative and sum to one."""
    if outputs.ndim != 2 or outputs.shape[1] < 2 or not bool(torch.isfinite(outputs).all()):
        return False
    return bool((outputs >= 0).all()) and bool(((outputs.sum(1) - 1).abs() < 1e-3).all())


def _lowest(
    problem: Problem, batch: Batch, output: Tensor, reach: Reach, *, falls: bool = True
) -> float | None:
    """The loss of the best outputs inside the reach, by descent on them; None where it must not fall on and on, and does."""
    loss_of = problem.require_whole("diagnosis").objective.batch_loss
    with torch.inference_mode(False), torch.enable_grad():
        free = torch.zeros_like(output, requires_grad=True)
        adam = torch.optim.Adam([free], lr=RATE, betas=(0.9, 0.9))  # first slopes may be huge
        best, seen = math.inf, list[float]()
        try:
            for _ in range(STEPS):
                adam.zero_grad()
                loss = loss_of(Given(_inside(free, reach)), batch)
                value = float(loss.detach())
                if not math.isfinite(value):
                    if not falls:
                        return None  # not every output is one for this loss
                    break
                best = min(best, value)
                seen.append(best)
                (gradient,) = torch.autograd.grad(loss, free)
                free.grad = gradient * free.numel()  # Adam's ε shall not count
                adam.step()
        except REFUSALS:
            return None
    if not seen or not (falls or seen[len(seen) * 2 // 3] - best < ENDS * (seen[0] - best)):
        return None
    return best


def _inside(free: Tensor, reach: Reach) -> Tensor:
    """Any numbers, brought into the reach."""
    if reach.shares:
        return free.softmax(-1)
    bounded_below, bounded_above = math.isfinite(reach.low), math.isfinite(reach.high)
    if bounded_below and bounded_above:
        return reach.low + (reach.high - reach.low) * free.sigmoid()
    if bounded_below:
        return reach.low + nn.functional.softplus(free)
    if bounded_above:
        return reach.high - nn.functional.softplus(-free)
    return free
