"""Update rules that treat each parameter alone: from gradient and memory to the next parameters.

Answers: where does a parameter go, exactly as the papers and lecture notes have it?
Does not answer: rules that look at a whole layer (``layerwise``) or at curvature (``curvature``).

A rule works in place on tensors of any shape. Its settings are numbers, or tensors that broadcast against the
parameters: one for each member of a population.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor
from torch.optim import Optimizer

__all__ = ["RULES", "Rule", "RuleOptimizer", "Setting"]

Setting = float | Tensor
"""One number for all, or a tensor that broadcasts against the parameters."""

Settings = Mapping[str, Setting]
Memory = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Rule:
    """How one kind of optimizer updates."""

    step: Callable[
        [Tensor, Tensor, Memory, Settings, int], None
    ]  # θ, g, memory, settings, t from 0
    memory: tuple[str, ...]  # tensors like θ that start at zero
    settings: tuple[str, ...]  # beside lr and weight_decay
    decoupled: bool = False  # weight decay does not go through the gradient


def _gradient_descent(theta: Tensor, g: Tensor, memory: Memory, s: Settings, t: int) -> None:
    del memory, t
    _move(theta, g, s["lr"])


def _torch_momentum(theta: Tensor, g: Tensor, memory: Memory, s: Settings, t: int) -> None:
    """B ← μ b + g; θ ← θ − η b."""
    del t
    buffer = memory["buffer"].mul_(s["momentum"]).add_(g)
    _move(theta, buffer, s["lr"])


def _heavy_ball(theta: Tensor, g: Tensor, memory: Memory, s: Settings, t: int) -> None:
    """M ← λ m − η g; θ ← θ + m: the rate of a gradient stays in its share of m."""
    del t
    movement = memory["movement"].mul_(s["momentum"])
    _move(movement, g, s["lr"])
    theta.add_(movement)


def _nesterov(theta: Tensor, g: Tensor, memory: Memory, s: Settings, t: int) -> None:
    """B ← μ b + g; θ ← θ − η (g + μ b), torch's form of Sutskever et al. (2013)."""
    del t
    buffer = memory["buffer"].mul_(s["momentum"]).add_(g)
    _move(theta, g + s["momentum"] * buffer, s["lr"])


def _adagrad(theta: Tensor, g: Tensor, memory: Memory, s: Settings, t: int) -> None:
    """S ← s + g²; θ ← θ − η g / (√s + ε): Duchi et al. (2011)."""
    del t
    total = memory["sum"].addcmul_(g, g)
    _move(theta, g / (total.sqrt() + s["eps"]), s["lr"])


def _adagrad_rms(theta: Tensor, g: Tensor, memory: Memory, s: Settings, t: int) -> None:
    """σ = root mean square of all gradients so far; θ ← θ − η g / σ. The rate does not decay by itself."""
    total = memory["sum"].addcmul_(g, g)
    _move(theta, g / ((total / (t + 1)).sqrt() + s["eps"]), s["lr"])


def _rmsprop(theta: Tensor, g: Tensor, memory: Memory, s: Settings, t: int) -> None:
    """V ← α v + (1 − α) g² from 0; θ ← θ − η g / (√v + ε), as torch has it."""
    del t
    _move(theta, g / (_averaged(memory["square"], g, s["alpha"]).sqrt() + s["eps"]), s["lr"])


def _rmsprop_notes(theta: Tensor, g: Tensor, memory: Memory, s: Settings, t: int) -> None:
    """The same from σ⁰ = |g⁰|, so that the first step is η long in every coordinate."""
    if t == 0:
        memory["square"].copy_(g * g)
    else:
        _averaged(memory["square"], g, s["alpha"])
    _move(theta, g / (memory["square"].sqrt() + s["eps"]), s["lr"])


def _adam(theta: Tensor, g: Tensor, memory: Memory, s: Settings, t: int) -> None:
    """Kingma and Ba (2015), algorithm 1."""
    b1, b2 = s["beta1"], s["beta2"]
    mean = memory["mean"].lerp_(g, _weight(1 - b1, g))
    square = _averaged(memory["square"], g, b2)
    denominator = square.sqrt().div_((1 - b2 ** (t + 1)) ** 0.5).add_(s["eps"])
    _move(theta, mean / denominator, s["lr"] / (1 - b1 ** (t + 1)))


def _adamw(theta: Tensor, g: Tensor, memory: Memory, s: Settings, t: int) -> None:
    """Adam after θ ← (1 − η λ) θ: Loshchilov and Hutter (2019)."""
    theta.mul_(1 - s["lr"] * s["weight_decay"])
    _adam(theta, g, memory, s, t)


def _averaged(square: Tensor, g: Tensor, keep: Setting) -> Tensor:
    return square.mul_(keep).add_((1 - keep) * (g * g))


def _weight(weight: Setting, like: Tensor) -> Any:
    return weight.to(like) if isinstance(weight, Tensor) else weight


def _move(theta: Tensor, direction: Tensor, rate: Setting) -> None:
    """θ ← θ − rate·direction."""
    if isinstance(rate, Tensor):
        theta.addcmul_(direction, rate, value=-1)
    else:
        theta.add_(direction, alpha=-rate)


RULES: Final = {
    "gradient-descent": Rule(_gradient_descent, (), ()),
    "momentum": Rule(_torch_momentum, ("buffer",), ("momentum",)),
    "heavy-ball": Rule(_heavy_ball, ("movement",), ("momentum",)),
    "nesterov": Rule(_nesterov, ("buffer",), ("momentum",)),
    "adagrad": Rule(_adagrad, ("sum",), ("eps",)),
    "adagrad-rms": Rule(_adagrad_rms, ("sum",), ("eps",)),
    "rmsprop": Rule(_rmsprop, ("square",), ("alpha", "eps")),
    "rmsprop-notes": Rule(_rmsprop_notes, ("square",), ("alpha", "eps")),
    "adam": Rule(_adam, ("mean", "square"), ("beta1", "beta2", "eps")),
    "adamw": Rule(_adamw, ("mean", "square"), ("beta1", "beta2", "eps"), decoupled=True),
}
"""By name. ``gradient-descent`` is also SGD without momentum: what differs is the batch."""


class RuleOptimizer(Optimizer):
    """A rule as an optimizer of torch's kind, for the forms that torch has not.

    Args:
        params: Parameters, or groups of them with settings of their own.
        rule: One of ``RULES``.
        lr: Learning rate.
        weight_decay: Added to the gradient as weight_decay·θ, unless the rule is decoupled.
        settings: What the rule needs beside.
    """

    def __init__(
        self, params: Any, rule: str, *, lr: float, weight_decay: float = 0.0, **settings: float
    ) -> None:
        self._rule = RULES[rule]
        names = self._rule.settings
        super().__init__(
            params,
            {"lr": lr, "weight_decay": weight_decay, **{name: settings[name] for name in names}},
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # pyright: ignore[reportIncompatibleMethodOverride] - torch types it by overloads
        """Update every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        rule = self._rule
        for group in self.param_groups:
            for parameter in group["params"]:
                g = parameter.grad
                if g is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["step"] = 0
                    state.update({name: torch.zeros_like(parameter) for name in rule.memory})
                if group["weight_decay"] and not rule.decoupled:
                    g = g.add(parameter, alpha=group["weight_decay"])
                rule.step(parameter, g, state, group, state["step"])
                state["step"] += 1
        return loss
