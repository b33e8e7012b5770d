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
from torch.nn.modules.batchnorm import _NormBase  # pyright: ignore[reportPrivateUsage]
from torch.nn.modules.conv import _ConvNd  # pyright: ignore[reportPrivateUsage]

from unstick.diagnosis.constant import constant_loss
from unstick.diagnosis.reach import Reach, are_shares, reach_of
from unstick.errors import BadData
from unstick.problem.batches import Batch, leaves, size_of
from unstick.problem.problem import Problem

__all__ = ["LayerState", "Signals", "read_signals"]

SAMPLES = 256
NUDGE = 1e-3  # relative change of the parameters that tells a unit at rest from one that a zero weight hides
SMALL = (1e-6, 1e-2)  # a zero is nudged as a number between these is
FLAT = 0.01  # part of its steepest slope below which an activation counts as saturated
STEPS = 8  # of a sequence from which on a gradient may vanish through time
LISTED = 4096  # most dead units that are told one by one

CHANNELS = (_ConvNd, _NormBase, nn.GroupNorm, nn.PReLU)  # their units are the second axis
FEATURES = (nn.Linear, nn.Bilinear, nn.Embedding, nn.LayerNorm, nn.RMSNorm)  # the last one


@dataclass(frozen=True, slots=True)
class LayerState:
    """One call of a layer with parameters, in the order of the forward pass; its units are the columns of its output."""

    name: str  # for reading: "features.3 (Conv2d)", "#0 (Linear)"
    units: int
    dead: float  # share of units that pass no gradient back for any sample
    copies: float  # share of units whose outputs equal another one's on every sample
    saturated: float  # share of outputs that sit where the following activation is flat; 0 where none was seen
    gradient: float  # root mean square over samples of the gradient's norm at its output
    dead_units: tuple[int, ...] = ()  # which ones are dead, the first 4,096, in ascending order
    module: str = ""  # its name in ``named_modules``


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
    input_spread: (
        float | None
    )  # large over small standard deviations of features: quantiles 95 and 5 %
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
    samples: int = (
        0  # looked at for layers and sizes: of the first batch alone where batches do not join
    )
    input_offset: float | None = (
        None  # median of |mean| over standard deviation of features that vary
    )
    output_saturated: float = 0.0  # share of outputs that sit where the last activation is flat
    through_time: float | None = (
        None  # gradient at the inputs of a sequence: the lower quartile of its steps over the largest
    )
    reach: Reach | None = None  # what outputs the model can give at all


def read_signals(problem: Problem, *, seed: int) -> Signals:
    """Look at a model at work on at most 256 samples.

    Cost:
        About thirty gradients of so few samples; for some losses, forty evaluations of the loss alone on all targets.
    """
    part = problem.subset(SAMPLES, seed=seed) if problem.samples > SAMPLES else problem
    theta = part.parameters()
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(theta.shape, generator=generator, dtype=theta.dtype).to(theta)
    nudged = theta + NUDGE * _sizes(part, theta) * noise
    evaluation = part.require_whole("diagnosis")
    batch = evaluation.batches[0]
    watched = _watch(part, theta, batch)
    moved = _watch(part, nudged, batch)
    still = _still(part, [theta], seed)
    stays = tuple(name for name in _still(part, [nudged], seed) if name in still)
    random = [_random(part, generator) for _ in range(3)]
    random.append(random[0].abs() + 1.0)  # where no ReLU is dead, if it ever lives
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
        outputs_are_shares=watched.output is not None and are_shares(watched.output),
        loss_takes_scores=_takes_scores(part, theta, batch),
        outputs_constant=_constant(watched.output),
        outputs_one_sided=_one_sided(watched.output, targets),
        constant_loss=constant_loss(problem, watched.output),
        samples=(size_of(batch) or 1) if leaves(batch) else 0,
        input_offset=_offset(inputs),
        output_saturated=_output_saturated(watched),
        through_time=_through_time(moved),
        reach=reach_of(part, batch, watched.output, generator),
    )


@dataclass(slots=True)
class _Seen:
    """One call of a layer."""

    module: str
    kind: str
    axis: int  # of the units
    learns: bool  # whether a gradient is to come here at all: not where all before it is frozen
    output: Tensor
    gradient: Tensor | None = None
    slope: Tensor | None = None  # of what follows, relative to its steepest


@dataclass(slots=True)
class _Watched:
    calls: list[_Seen]
    output: Tensor | None
    steps: list[Tensor]  # norms of the gradient at the inputs of recurrent layers, step by step


def _watch(problem: Problem, theta: Tensor, batch: Batch) -> _Watched:
    """Outputs of all layers with parameters, gradients there, and the slopes of the activations behind them."""
    evaluation = problem.require_whole("diagnosis")
    calls: list[_Seen] = []
    final: list[Tensor] = []
    steps: list[Tensor] = []
    names = {module: name for name, module in evaluation.model.named_modules()}

    fed: list[tuple[Tensor, int]] = []  # into recurrent layers, and the axis of their steps

    def feed(module: nn.Module, given: Any) -> Any:
        x = given[0] if given else None
        if not isinstance(module, nn.RNNBase) or not isinstance(x, Tensor) or x.ndim != 3:
            return None
        if not x.is_floating_point():
            return None
        x = x if x.requires_grad else x.detach().clone().requires_grad_()
        fed.append((x, 1 if module.batch_first else 0))
        return (x, *given[1:])

    def layer(module: nn.Module, _given: Any, output: Any) -> None:
        if isinstance(module, nn.RNNBase):
            output = output[0]
        if isinstance(output, Tensor) and output.is_floating_point() and output.ndim >= 1:
            own = any(parameter.requires_grad for parameter in module.parameters(recurse=False))
            seen = _Seen(
                module=names[module],
                kind=type(module).__name__,
                axis=_unit_axis(module, output.ndim),
                learns=own or output.requires_grad,
                output=output.detach().clone(),  # kept from in-place activations
            )
            if isinstance(module, nn.RNN) and module.nonlinearity == "tanh":
                seen.slope = 1 - seen.output.square()
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
        hooks.append(module.register_forward_pre_hook(feed))
    try:
        with evaluation.visit():
            point = theta.detach().requires_grad_()

            def work() -> None:
                loss = evaluation.objective.loss_of(batch)
                if loss.requires_grad:
                    asked = [point, *(x for x, _ in fed)]
                    found: Any = torch.autograd.grad(loss, asked, allow_unused=True)
                    steps.extend(
                        g.movedim(axis, 0).flatten(1).norm(dim=1)
                        for (_, axis), g in zip(fed, found[1:], strict=True)
                        if g is not None
                    )

            evaluation.at(point, work)
            evaluation.meter.count("gradient", problem.samples or 1)
    finally:
        for hook in hooks:
            hook.remove()
    return _Watched(calls, final[-1] if final else None, steps)


def _slope(module: nn.Module, at: Tensor) -> Tensor | None:
    """|derivative| of an elementwise function at its inputs, relative to its largest on [−4, 4]; None for others."""
    function = module.forward  # called so, no hook sees it: the one that asks would ask again
    with torch.enable_grad():
        try:
            grid = torch.linspace(-4, 4, 81, dtype=at.dtype, device=at.device).requires_grad_()
            steepest = torch.autograd.grad(function(grid).sum(), grid)[0].abs().max()
            x = at.clone().requires_grad_()
            signs = torch.ones_like(at)
            signs.view(-1)[::2] = 2.0  # a function that mixes its inputs gives another answer
            output = function(x)
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
        if here.output.ndim < 2 or here.output.shape[here.axis] < 2:
            continue
        dead = _at_rest(here, there)
        flat = 0.0
        if here.slope is not None:
            flat = float((here.slope < FLAT).double().mean())
        found.append(
            LayerState(
                name=_readable(here),
                units=len(dead),
                dead=float(dead.double().mean()),
                copies=_copies(_by_unit(here.output, here.axis)),
                saturated=flat,
                gradient=_size(here.gradient),
                dead_units=tuple(dead.nonzero().squeeze(1)[:LISTED].tolist()),
                module=here.module,
            )
        )
    return tuple(found)


def _at_rest(here: _Seen, there: _Seen) -> Tensor:
    """Units without any gradient, both as they are and with all parameters nudged, bool [units]."""
    dead = torch.full((here.output.shape[here.axis],), here.learns, device=here.output.device)
    for gradient in (here.gradient, there.gradient):
        if gradient is not None:
            dead &= (_by_unit(gradient, here.axis) == 0).all(0)
    return dead


def _readable(seen: _Seen) -> str:
    number = "#" if seen.module.replace(".", "").isdigit() else ""
    return f"{number}{seen.module or 'the model'} ({seen.kind})"


def _unit_axis(module: nn.Module, ndim: int) -> int:
    """By the kind of layer; for others the second axis of [N, C] and [N, C, H, W], the last one of [N, T, C]."""
    if isinstance(module, FEATURES):
        return ndim - 1
    return min(1, ndim - 1) if isinstance(module, CHANNELS) or ndim in (2, 4) else ndim - 1


def _by_unit(values: Tensor, axis: int) -> Tensor:
    """[everything else, units]."""
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


def _through_time(watched: _Watched) -> float | None:
    """The lower quartile of the steps over the largest, in the worst recurrent layer; None for fewer than eight steps."""
    ratios = [
        float(norms.quantile(0.25) / norms.max())
        for norms in watched.steps
        if len(norms) >= STEPS and float(norms.max()) > 0
    ]
    return min(ratios, default=None)


def _output_saturated(watched: _Watched) -> float:
    last = watched.calls[-1].slope if watched.calls else None
    return 0.0 if last is None else float((last < FLAT).double().mean())


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
    """What each parameter is nudged in proportion to: itself; one near zero, to what is usual in its row, if that is small.

    So no entry is thrown far, whatever stands beside it.
    """
    low, high = SMALL
    pieces: list[Tensor] = []
    for piece in problem.layout.parts(theta.abs()):
        rows = piece.flatten(1) if piece.ndim > 1 else piece.reshape(-1, 1)
        logs = rows.log().masked_fill(rows == 0, 0.0).sum(1, keepdim=True)
        usual = (logs / (rows != 0).sum(1, keepdim=True)).exp()  # a geometric mean
        floor = usual.nan_to_num(high).clamp(low, high)  # in a row of zeros nothing is usual
        pieces.append(torch.maximum(rows, floor).reshape(-1))
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
    if not len(varying):
        return None
    few, many = varying.quantile(0.05), varying.quantile(0.95)  # some pixels are almost never lit
    return float(many / few)


def _offset(inputs: Tensor | None) -> float | None:
    if inputs is None or inputs.ndim != 2 or len(inputs) < 2:
        return None
    x = inputs.double()
    deviations = x.std(0)
    varying = deviations > 0
    ratios = (x.mean(0).abs() / deviations)[varying]
    return float(ratios.median()) if len(ratios) else None


def _takes_scores(problem: Problem, theta: Tensor, batch: Batch) -> bool:
    evaluation = problem.require_whole("diagnosis")
    if isinstance(evaluation.objective.loss, nn.BCELoss):  # refuses what is no probability
        return False

    def shifted(_module: nn.Module, _given: Any, output: Any) -> Any:
        return output + 1.0 if isinstance(output, Tensor) else None

    def loss() -> float:
        with evaluation.visit(), torch.no_grad():
            return float(evaluation.batch_loss(theta, batch))

    plain = loss()
    hook = evaluation.model.register_forward_hook(shifted)
    try:
        moved = loss()
    except RuntimeError:  # so may a loss of the user's
        return False
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
