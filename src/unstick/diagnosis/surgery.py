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
from unstick.diagnosis.reach import Given
from unstick.problem.batches import Batch, take
from unstick.problem.evaluation import REFUSALS

__all__ = [
    "NotPossible",
    "exchange",
    "hidden_activations",
    "takes_shares_only",
    "trailing_modules",
]

SHAPING = (nn.Flatten, nn.Unflatten, nn.Identity, nn.Dropout)
"""What changes no number of a model that is evaluated."""

SEEN = 8  # samples that a pass is followed on


class NotPossible(Exception):
    """A remedy does not fit this run, and why."""


def trailing_modules(bench: Bench) -> tuple[list[str], Tensor]:
    """What changes numbers after the last layer with parameters, by name, and the model's outputs for a few samples.

    Raises:
        NotPossible: The last of them does not give the model's output, or the output is no tensor.
    """
    calls, output = _follow(bench)
    if not isinstance(output, Tensor):
        raise NotPossible("the model's output is no tensor")
    last = max((k for k, call in enumerate(calls) if call.own), default=-1)
    behind = calls[last + 1 :]
    if calls and calls[-1].output is not output:
        raise NotPossible(
            "the forward pass goes on with functions behind its last module, which cannot be exchanged"
        )
    names = [call.name for call in behind if call.changes]  # reshaping stays
    if not names:
        raise NotPossible("no activation stands behind the last layer")
    before = {call.name for call in calls[: last + 1]}
    if len(set(names)) < len(names) or before & set(names):
        raise NotPossible("a module behind the last layer is called more than once")
    return names, output


def takes_shares_only(bench: Bench, output: Tensor) -> bool:
    """Whether the loss cuts outputs off above 1, as one that wants probabilities and guards its logarithm."""
    evaluation = bench.problem.require_whole("diagnosis")
    batch = bench.data(bench.objective.model, _few(bench))
    losses: list[float] = []
    for value in (2.0, 3.0):
        answer = Given(torch.full_like(output, value))
        try:
            with torch.no_grad():
                losses.append(float(evaluation.objective.batch_loss(answer, batch)))
        except REFUSALS:
            return True
    return losses[0] == losses[1]


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
    """Put another module in the place of the one of this name, wherever that is held."""
    old = model.get_submodule(name)
    every = [each for each, m in model.named_modules(remove_duplicate=False) if m is old]
    for each in every:
        parent, _, own = each.rpartition(".")
        setattr(model.get_submodule(parent), own, new)


class _Call:
    def __init__(self, name: str, module: nn.Module, given: Any, output: Any) -> None:
        self.name, self.module, self.output = name, module, output
        before = given[0] if given else None
        self.changes = not isinstance(module, SHAPING) and not (
            isinstance(before, Tensor)
            and isinstance(output, Tensor)
            and before.shape != output.shape
            and torch.equal(before.flatten(), output.flatten())
        )
        self.own = next(module.parameters(recurse=False), None) is not None


def _follow(bench: Bench) -> tuple[list[_Call], Any]:
    """The calls of modules without parts, in order, on a few samples, and the output of the whole."""
    objective = bench.objective
    model = objective.model
    calls: list[_Call] = []
    final: list[Any] = []

    def called(name: str) -> Callable[[nn.Module, Any, Any], None]:
        return lambda module, given, output: calls.append(_Call(name, module, given, output))

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
    """The first samples."""
    if not bench.samples:
        return bench.batch
    return take(bench.batch, torch.arange(min(SEEN, bench.samples)))
