"""Changes to a model that is known only by what it does: other activations, another output layer.

Answers: which modules stand behind the last layer and between the layers, and how are they exchanged?
Does not answer: whether that helps; it is tried (``trials``).

What a forward pass writes as functions (``F.softmax``) is no module and cannot be exchanged; a refusal says so.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from unstick.diagnosis.bench import Bench
from unstick.problem.batches import Batch, take

__all__ = ["NotPossible", "exchange", "hidden_activations", "trailing_modules"]

SEEN = 8  # samples that a pass is followed on


class NotPossible(Exception):
    """A remedy does not fit this run, and why."""


def trailing_modules(bench: Bench) -> tuple[list[str], Tensor]:
    """What is called after the last layer with parameters, by name, and the model's outputs for a few samples.

    Raises:
        NotPossible: The last of them does not give the model's output, or the output is no tensor.
    """
    calls, output = _follow(bench)
    if not isinstance(output, Tensor):
        raise NotPossible("the model's output is no tensor")
    last = max((k for k, call in enumerate(calls) if call.own), default=-1)
    trailing = calls[last + 1 :]
    names = [call.name for call in trailing]
    if not names:
        raise NotPossible("no module stands behind the last layer")
    if trailing[-1].output is not output or len(set(names)) < len(names):
        raise NotPossible(
            "the forward pass goes on with functions behind its last module, which cannot be exchanged"
        )
    return names, output


def hidden_activations(bench: Bench, kinds: tuple[type[nn.Module], ...]) -> list[str]:
    """Modules of these kinds that are called before the last layer with parameters, by name.

    Raises:
        NotPossible: There are none.
    """
    calls, _ = _follow(bench)
    last = max((k for k, call in enumerate(calls) if call.own), default=-1)
    found = dict.fromkeys(c.name for c in calls[:last] if isinstance(c.module, kinds))
    if not found:
        raise NotPossible(f"the model has no {' or '.join(k.__name__ for k in kinds)} of its own")
    return list(found)


def exchange(model: nn.Module, name: str, new: nn.Module) -> None:
    """Put another module in the place of the one of this name."""
    parent, _, own = name.rpartition(".")
    holder = model.get_submodule(parent) if parent else model
    setattr(holder, own, new)


class _Call:
    def __init__(self, name: str, module: nn.Module, output: Any) -> None:
        self.name, self.module, self.output = name, module, output
        self.own = next(module.parameters(recurse=False), None) is not None


def _follow(bench: Bench) -> tuple[list[_Call], Any]:
    """The calls of modules without parts, in order, on a few samples, and the output of the whole."""
    objective = bench.objective
    model = objective.model
    calls: list[_Call] = []
    final: list[Any] = []

    def called(name: str) -> Callable[[nn.Module, Any, Any], None]:
        return lambda module, _given, output: calls.append(_Call(name, module, output))

    hooks = [model.register_forward_hook(lambda _module, _given, output: final.append(output))]
    for name, module in model.named_modules():
        if name and next(module.children(), None) is None:
            hooks.append(module.register_forward_hook(called(name)))
    try:
        with objective.visit(training=False), torch.no_grad():
            objective.loss_of(bench.data(model, _few(bench)))
    finally:
        for hook in hooks:
            hook.remove()
    if not final:
        raise NotPossible("the loss does not call the model, so that its parts are not seen")
    return calls, final[-1]


def _few(bench: Bench) -> Batch:
    if not bench.samples:
        return bench.batch
    return take(bench.batch, torch.arange(min(SEEN, bench.samples)))
