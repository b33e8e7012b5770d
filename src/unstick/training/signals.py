"""What signal a model lets through: the variance after each layer, and of the gradient that comes back to it.

Answers: where does the signal grow, fade or overflow on its way?
Does not answer: which start would mend it (``initialization``, ``normalization``).
"""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from math import isfinite, nan
from typing import Any

import torch
from torch import Tensor, nn

from unstick.errors import BadData, BadModel, NonFinite
from unstick.problem.batches import leaves, place
from unstick.problem.guard import devices_of, put_back_buffers, seed_randomness, visiting
from unstick.problem.layout import layout_of
from unstick.record import Fact, Record, number

__all__ = ["LayerSignal", "SignalByLayer", "signal_by_layer"]


@dataclass(frozen=True, slots=True)
class LayerSignal:
    """What one layer puts out."""

    name: str
    kind: str  # class of the module
    variance: float  # over samples and units together; nan where not finite
    ratio: float | None  # to the one before, at first the inputs; None where that is 0 or unknown
    gradient_variance: float | None  # of ∂loss/∂output; None: not asked for, or none arrives


@dataclass(frozen=True, slots=True)
class SignalByLayer(Record):
    """The variance of the signal after each layer, in the order of the forward pass."""

    layers: tuple[LayerSignal, ...]
    outcome: str  # "finite", or "not finite": some output holds inf or nan

    def headline(self) -> str:
        """Where the variance begins and ends."""
        if broken := [layer for layer in self.layers if not isfinite(layer.variance)]:
            return f"The signal is not finite from {_told(broken[0])} on."
        first, last = self.layers[0], self.layers[-1]
        return (
            f"The variance goes from {number(first.variance)} after {_told(first)} to "
            f"{number(last.variance)} after {_told(last)}."
        )

    def facts(self) -> list[Fact]:
        """Every layer."""
        return [
            (
                _told(layer),
                f"variance {number(layer.variance)}, ratio {number(layer.ratio)}, "
                f"of the gradient {number(layer.gradient_variance)}",
            )
            for layer in self.layers
        ]

    def ratios(self, kind: str) -> tuple[float, ...]:
        """The variance after each layer of a kind, such as ``ReLU``, over that after the one before of this kind."""
        variances = [layer.variance for layer in self.layers if layer.kind == kind]
        return tuple(after / before if before else nan for before, after in pairwise(variances))


def signal_by_layer(
    model: nn.Module,
    inputs: Tensor,
    *,
    loss: Callable[[Any, Any], Tensor] | None = None,
    targets: Any = None,
    training: bool = True,
    seed: int = 0,
) -> SignalByLayer:
    """Measure the variance that each layer puts out, and of the gradient that comes back to it; the model stays as it is.

    Layers are modules without modules inside, and attention. What a ``forward`` computes by functions shows only in the
    layer after it; a module used twice is listed twice; of several outputs the first counts.

    Args:
        model: Left as it was: modes, buffers, ``.grad``, hooks.
        inputs: One batch, [samples, …]; moved to the model's device and floating-point type.
        loss: Called as ``loss(model(inputs), targets)``; None: no gradients.
        targets: Of the loss.
        training: The mode to measure in: as in training, batch normalization uses the batch and dropout drops.
        seed: Of what a layer draws.

    Returns:
        Variances in float64 over all samples and units together. With He's start one ReLU layer multiplies them by
        about 1, with Xavier's by ½ where widths are equal. See ``SignalByLayer.ratios``.

    Raises:
        BadData: Inputs without a sample, or a loss without targets.
        NonFinite: Inputs that are not finite. Outputs that are not are measured as nan.
        BadModel: No trainable parameter, no layer called, or a loss that is not a scalar with a gradient.

    Cost:
        One forward pass; with a loss one gradient and the memory of its graph.

    References:
        Glorot, Bengio (2010), section 4.2; He, Zhang, Ren, Sun (2015), section 2.2.

    Example:
        >>> model = nn.Sequential(nn.Linear(1, 2, bias=False))
        >>> _ = nn.init.constant_(model[0].weight, 3.0)
        >>> signal_by_layer(model, torch.tensor([[-1.0], [1.0]])).layers[0].ratio
        9.0
    """
    layout = layout_of(model)
    if inputs.ndim == 0 or inputs.numel() == 0:
        raise BadData(f"inputs have shape {list(inputs.shape)}; expected at least one sample")
    if not torch.isfinite(inputs).all():
        raise NonFinite("inputs hold inf or nan; expected finite data: clean them first")
    if loss is not None and targets is None:
        raise BadData("a loss was given without targets; give both")
    seen: list[tuple[str, str, float]] = []
    gradients: dict[int, float] = {}
    with (
        visiting(model, training=training),
        put_back_buffers(model),
        torch.set_grad_enabled(loss is not None),
    ):
        seed_randomness(seed, devices_of(model))
        source = place(inputs.detach().clone(), layout.device, layout.dtype)
        source.requires_grad_(loss is not None and source.is_floating_point())
        with _watched(model, seen, gradients):
            outputs = model(source.clone())  # of a leaf, so that a first layer may work in place
        if loss is not None:
            value = loss(outputs, place(targets, layout.device, layout.dtype))
            _backward(value, [p for p in (source, *model.parameters()) if p.requires_grad])
    if not seen:
        raise BadModel("no layer of the model was called; expected modules such as nn.Linear")
    before = [_variance(source) if source.is_floating_point() else 0.0, *(v for _, _, v in seen)]
    layers = tuple(
        LayerSignal(name, kind, v, v / u if u else None, gradients.get(at))
        for at, ((name, kind, v), u) in enumerate(zip(seen, before, strict=False))
    )
    finite = all(isfinite(layer.variance) for layer in layers)
    return SignalByLayer(layers, "finite" if finite else "not finite")


@contextmanager
def _watched(
    model: nn.Module, seen: list[tuple[str, str, float]], gradients: dict[int, float]
) -> Generator[None]:
    """Every layer that is called adds its output to ``seen``, and its gradient, once computed, to ``gradients``."""

    def watch(name: str, module: nn.Module) -> Any:
        def note(_module: nn.Module, _args: Any, output: Any) -> None:
            first = next((leaf for leaf in leaves(output) if leaf.is_floating_point()), None)
            if first is None or first.numel() == 0:
                return
            at = len(seen)
            seen.append((name or "the model", type(module).__name__, _variance(first)))
            if first.requires_grad:
                first.register_hook(lambda g: gradients.update({at: _variance(g)}))

        return module.register_forward_hook(note)

    handles = [watch(name, module) for name, module in model.named_modules() if _leaf(name, module)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _leaf(name: str, module: nn.Module) -> bool:
    if "parametrizations" in name.split("."):
        return False
    inside = [child for child, _ in module.named_children() if child != "parametrizations"]
    return not inside or isinstance(module, nn.MultiheadAttention)


def _backward(value: Any, sources: list[Tensor]) -> None:
    if not isinstance(value, Tensor) or value.numel() != 1 or not value.requires_grad:
        what = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise BadModel(f"the loss is {what}; expected a scalar tensor with a gradient")
    torch.autograd.grad(value, sources, allow_unused=True)  # leaves .grad alone


def _variance(values: Tensor) -> float:
    return float(values.detach().double().var(correction=0))


def _told(layer: LayerSignal) -> str:
    return f"{layer.name} ({layer.kind})"
