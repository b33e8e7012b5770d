"""What goes through the model and what comes back: outputs of every layer, and gradients at them.

Answers: which units are dead, saturated or copies of each other, which tensors have no gradient at all, how gradients
shrink on the way back, and what inputs, outputs and targets look like.
Does not answer: whether any of this is why the loss stands still (``rules``).

Units are judged by what they do on samples, not by the names of their layers.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from unstick.errors import BadData
from unstick.problem.batches import Batch, leaves
from unstick.problem.problem import Problem

__all__ = ["LayerState", "Signals", "read_signals"]

SAMPLES = 256
NUDGE = 1e-3  # relative change of the parameters that tells a unit at rest from one that a zero weight hides
FLAT = 0.01  # part of its steepest slope below which an activation counts as saturated


@dataclass(frozen=True, slots=True)
class LayerState:
    """One layer with parameters, in the order of the forward pass; its units are the columns of its output."""

    name: str
    units: int
    dead: float  # share of units that pass no gradient back for any sample
    copies: float  # share of units whose outputs equal another one's on every sample
    saturated: float  # share of outputs that sit where the following activation is flat; 0 where none was seen
    gradient: float  # root mean square over samples of the gradient's norm at its output


@dataclass(frozen=True, slots=True)
class Signals:
    """The layers, and both ends of the model."""

    layers: tuple[LayerState, ...]  # hidden ones; the output layer is left out
    still: tuple[str, ...]  # tensors whose gradient is zero for every sample seen
    stays_still: tuple[str, ...]  # of these, those still so after the parameters were nudged
    always_still: tuple[str, ...]  # of these, those still so at random parameters
    still_share: float  # part of all parameters that lie in tensors of ``stays_still``
    shrinkage: float | None  # gradient at the first layer with parameters over that at the last
    input_size: float | None  # root mean square of floating-point inputs
    input_spread: float | None  # largest over smallest standard deviation of features that vary
    target_size: float | None  # root mean square of floating-point targets
    output_size: float | None  # root mean square of outputs
    outputs_are_shares: bool  # outputs of each sample are not negative and sum to one
    loss_takes_scores: (
        bool  # adding the same number to all outputs changes no loss: it normalizes them itself
    )
    outputs_constant: bool  # the same output for every sample
    outputs_one_sided: bool  # no output is negative, though targets are
    constant_loss: (
        float | None
    )  # loss of the best constant output: the entropy of classes, the variance of numbers


def read_signals(problem: Problem, *, seed: int) -> Signals:
    """Look at a model at work on at most 256 samples.

    Cost:
        About thirty gradients of so few samples.
    """
    part = problem.subset(SAMPLES, seed=seed) if problem.samples > SAMPLES else problem
    theta = part.parameters()
    generator = torch.Generator().manual_seed(seed)
    nudged = theta + NUDGE * _sizes(part, theta) * torch.randn(
        theta.shape, generator=generator, dtype=theta.dtype
    ).to(theta)
    evaluation = part.require_whole("diagnosis")
    batch = evaluation.batches[0]
    watched = _watch(part, theta, batch)
    moved = _watch(part, nudged, batch)
    still = _still(part, [theta], seed)
    stays = tuple(name for name in _still(part, [nudged], seed) if name in still)
    random = [_random(part, generator) for _ in range(3)]
    always = tuple(name for name in _still(part, random, seed) if name in stays)
    inputs, targets = _floats(batch)
    return Signals(
        layers=_layers(watched, moved),
        still=still,
        stays_still=stays,
        always_still=always,
        still_share=sum(
            dict(zip(part.layout.names, part.layout.sizes, strict=True))[n] for n in stays
        )
        / part.n,
        shrinkage=_shrinkage(moved),
        input_size=_rms(inputs),
        input_spread=_spread(inputs),
        target_size=_rms(targets),
        output_size=_rms(watched.output),
        outputs_are_shares=_are_shares(watched.output),
        loss_takes_scores=_takes_scores(part, theta, batch),
        outputs_constant=_constant(watched.output),
        outputs_one_sided=_one_sided(watched.output, targets),
        constant_loss=_constant_loss(problem),
    )


@dataclass(slots=True)
class _Seen:
    """One call of a layer."""

    name: str
    output: Tensor
    gradient: Tensor | None = None
    slope: Tensor | None = None  # of what follows, relative to its steepest


@dataclass(slots=True)
class _Watched:
    calls: list[_Seen]
    output: Tensor | None


def _watch(problem: Problem, theta: Tensor, batch: Batch) -> _Watched:
    """Outputs of all layers with parameters, gradients there, and the slopes of the activations behind them."""
    evaluation = problem.require_whole("diagnosis")
    calls: list[_Seen] = []
    final: list[Tensor] = []
    names = {module: name for name, module in evaluation.model.named_modules()}

    def layer(module: nn.Module, _given: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.is_floating_point() and output.ndim >= 1:
            seen = _Seen(
                names.get(module, "?"), output.detach().clone()
            )  # kept from in-place activations
            calls.append(seen)
            if output.requires_grad:
                output.register_hook(lambda g, s=seen: setattr(s, "gradient", g.detach()))

    def activation(module: nn.Module, given: Any, output: Any) -> None:
        before = given[0] if given else None
        if not (calls and isinstance(before, Tensor) and isinstance(output, Tensor)):
            return
        if before.shape == output.shape == calls[-1].output.shape and calls[-1].slope is None:
            slope = _slope(module, before.detach())
            if slope is not None:  # at rest with output 0, as a ReLU's, is another state
                calls[-1].slope = slope.masked_fill(output.detach() == 0, float("inf"))

    def whole(_module: nn.Module, _given: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            final.append(output.detach())

    hooks = [evaluation.model.register_forward_hook(whole)]
    for module in evaluation.model.modules():
        if next(module.children(), None) is not None:
            continue
        own = next(module.parameters(recurse=False), None) is not None
        hooks.append(module.register_forward_hook(layer if own else activation))
    try:
        with evaluation.visit():
            point = theta.detach().requires_grad_()

            def work() -> None:
                loss = evaluation.objective.loss_of(batch)
                if loss.requires_grad:
                    torch.autograd.grad(loss, point, allow_unused=True)

            evaluation.at(point, work)
            evaluation.meter.count("gradient", problem.samples or 1)
    finally:
        for hook in hooks:
            hook.remove()
    return _Watched(calls, final[-1] if final else None)


def _slope(module: nn.Module, at: Tensor) -> Tensor | None:
    """|derivative| of an elementwise function at its inputs, relative to its largest on [−4, 4]; None for others."""
    with torch.enable_grad():
        try:
            grid = torch.linspace(-4, 4, 81, dtype=at.dtype, device=at.device).requires_grad_()
            steepest = torch.autograd.grad(module(grid).sum(), grid)[0].abs().max()
            x = at.clone().requires_grad_()
            signs = torch.ones_like(at)
            signs.view(-1)[::2] = 2.0  # a function that mixes its inputs gives another answer
            output = module(x)
            one = torch.autograd.grad(output, x, torch.ones_like(at), retain_graph=True)[0]
            two = torch.autograd.grad(output, x, signs)[0]
        except (RuntimeError, TypeError, ValueError, IndexError):
            return None
    if not torch.allclose(two, one * signs, rtol=1e-4, atol=1e-12) or not float(steepest) > 0:
        return None
    return one.abs() / steepest


def _layers(watched: _Watched, moved: _Watched) -> tuple[LayerState, ...]:
    if len(watched.calls) != len(moved.calls):
        return ()
    found: list[LayerState] = []
    for here, there in zip(watched.calls[:-1], moved.calls[:-1], strict=True):
        outputs = _by_unit(here.output)
        if outputs is None or outputs.shape[1] < 2:
            continue
        back = None if there.gradient is None else _by_unit(there.gradient)
        units = outputs.shape[1]
        dead = 1.0 if back is None else float((back == 0).all(0).double().mean())
        flat = 0.0
        if here.slope is not None and (slopes := _by_unit(here.slope)) is not None:
            flat = float((slopes < FLAT).double().mean())
        found.append(
            LayerState(here.name, units, dead, _copies(outputs), flat, _size(here.gradient))
        )
    return tuple(found)


def _by_unit(values: Tensor) -> Tensor | None:
    """[everything else, units]: the second axis is the units' for [N, C, …], the last one for [N, T, C]."""
    if values.ndim < 2:
        return None
    axis = 1 if values.ndim in (2, 4) else values.ndim - 1
    return values.movedim(axis, -1).reshape(-1, values.shape[axis])


def _copies(outputs: Tensor) -> float:
    """Share of units whose output some other unit has on every sample, to rounding."""
    size = outputs.abs().amax() + torch.finfo(outputs.dtype).tiny
    columns = outputs.T
    apart = torch.cdist(columns, columns, p=float("inf")) / size
    apart.fill_diagonal_(float("inf"))
    return float((apart.amin(1) < 64 * torch.finfo(outputs.dtype).eps).double().mean())


def _size(gradient: Tensor | None) -> float:
    if gradient is None:
        return 0.0
    return (
        float(gradient.flatten(1).norm(dim=1).square().mean().sqrt()) if gradient.ndim > 1 else 0.0
    )


def _shrinkage(watched: _Watched) -> float | None:
    """Per unit, so that wide layers do not count for more."""
    sizes = [
        _size(call.gradient) / math.sqrt(max(1, call.output[0].numel())) for call in watched.calls
    ]
    if len(sizes) < 3 or sizes[-1] == 0:
        return None
    return sizes[0] / sizes[-1]


def _still(problem: Problem, thetas: Sequence[Tensor], seed: int) -> tuple[str, ...]:
    """Names of tensors whose gradient is exactly zero, on all samples together and on some alone."""
    layout = problem.layout
    at = torch.stack(list(thetas))
    alone: list[Tensor] = []
    for k in range(6) if problem.samples > 1 else ():
        try:
            alone.append(problem.subset(1, seed=seed + k).gradients(at))
        except BadData:  # a sample that counts for nothing, such as an ignored one
            continue
    every = torch.cat([problem.gradients(at), *alone])
    parts = [layout.named(row) for row in every]
    return tuple(n for n in layout.names if all(bool((p[n] == 0).all()) for p in parts))


def _sizes(problem: Problem, theta: Tensor) -> Tensor:
    """For each parameter the root mean square of its tensor, at least a hundredth."""
    pieces: list[Tensor] = []
    for piece in problem.layout.parts(theta):
        size = max(float(piece.double().square().mean().sqrt()), 1e-2)
        pieces.append(torch.full_like(piece, size).reshape(-1))
    return torch.cat(pieces)


def _random(problem: Problem, generator: torch.Generator) -> Tensor:
    """Parameters drawn anew: weights by their fan-in, vectors small."""
    pieces: list[Tensor] = []
    for shape in problem.layout.shapes:
        drawn = torch.randn(shape, generator=generator, dtype=torch.float64)
        fan = math.prod(shape[1:]) if len(shape) > 1 else 0
        pieces.append((drawn * (math.sqrt(2 / fan) if fan else 0.1)).reshape(-1))
    return torch.cat(pieces).to(problem.device, problem.dtype)


def _floats(batch: Batch) -> tuple[Tensor | None, Tensor | None]:
    """Floating-point inputs and targets of a batch (inputs, targets), each None where there are none."""
    if not isinstance(batch, (tuple, list)) or len(cast("Sequence[Any]", batch)) != 2:
        found = [leaf for leaf in leaves(batch) if leaf.is_floating_point()]
        return (found[0] if found else None), None
    inputs, targets = cast("Sequence[Any]", batch)
    first = next((leaf for leaf in leaves(inputs) if leaf.is_floating_point()), None)
    goal = targets if isinstance(targets, Tensor) and targets.is_floating_point() else None
    return first, goal


def _rms(values: Tensor | None) -> float | None:
    return None if values is None else float(values.double().square().mean().sqrt())


def _spread(inputs: Tensor | None) -> float | None:
    if inputs is None or inputs.ndim != 2 or len(inputs) < 2:
        return None
    deviations = inputs.double().std(0)
    varying = deviations[deviations > 0]
    return float(varying.max() / varying.min()) if len(varying) else None


def _are_shares(outputs: Tensor | None) -> bool:
    if outputs is None or outputs.ndim != 2 or outputs.shape[1] < 2:
        return False
    return bool((outputs >= 0).all()) and bool(((outputs.sum(1) - 1).abs() < 1e-3).all())


def _takes_scores(problem: Problem, theta: Tensor, batch: Batch) -> bool:
    evaluation = problem.require_whole("diagnosis")

    def shifted(_module: nn.Module, _given: Any, output: Any) -> Any:
        return output + 1.0 if isinstance(output, Tensor) else None

    def loss() -> float:
        with evaluation.visit(), torch.no_grad():
            return float(evaluation.batch_loss(theta, batch))

    plain = loss()
    hook = evaluation.model.register_forward_hook(shifted)
    try:
        moved = loss()
    finally:
        hook.remove()
    return abs(moved - plain) <= 1e-6 * max(abs(plain), 1e-6)


def _constant(outputs: Tensor | None) -> bool:
    if outputs is None or len(outputs) < 2:
        return False
    size = float(outputs.abs().max()) or 1.0
    return float((outputs - outputs[:1]).abs().max()) <= 1e-6 * size


def _one_sided(outputs: Tensor | None, targets: Tensor | None) -> bool:
    if outputs is None or targets is None:
        return False
    cut = float(outputs.min()) == 0.0  # some output is cut off there
    return cut and bool((targets < 0).double().mean() > 0.1)


def _constant_loss(problem: Problem) -> float | None:
    """The loss of the best constant output, where the loss is one of torch's on (inputs, targets)."""
    evaluation = problem.require_whole("diagnosis")
    loss = evaluation.objective.loss
    pairs = [b for b in evaluation.batches if isinstance(b, (tuple, list)) and len(b) == 2]
    if not pairs or len(pairs) != len(evaluation.batches):
        return None
    goals = [b[1] for b in pairs]
    if not all(isinstance(goal, Tensor) for goal in goals):
        return None
    targets = torch.cat([cast("Tensor", goal) for goal in goals])
    if isinstance(loss, (nn.CrossEntropyLoss, nn.NLLLoss)) and not targets.is_floating_point():
        counted = targets[targets != loss.ignore_index]
        if not len(counted):
            return None
        shares = torch.bincount(counted.reshape(-1)).double()
        shares = shares[shares > 0] / shares.sum()
        return float(-(shares * shares.log()).sum())
    if isinstance(loss, nn.MSELoss) and targets.is_floating_point():
        return float(targets.double().var(0, correction=0).mean())
    if isinstance(loss, nn.L1Loss) and targets.is_floating_point():
        middle = targets.double().median(0, keepdim=True).values
        return float((targets - middle).abs().mean())
    if isinstance(loss, (nn.BCELoss, nn.BCEWithLogitsLoss)):
        share = targets.double().mean(0).clamp(1e-12, 1 - 1e-12)
        return float(-(share * share.log() + (1 - share) * (1 - share).log()).mean())
    return None
