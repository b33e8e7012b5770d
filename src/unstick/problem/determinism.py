"""Does the same evaluation give the same answer twice, and if not, what broke it?"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from unstick.errors import NonDeterministic
from unstick.problem.guard import devices_of, seed_randomness
from unstick.record import number

__all__ = ["check_deterministic"]


def check_deterministic(model: nn.Module, evaluate: Callable[[], tuple[float, Tensor]]) -> None:
    """Evaluate twice and refuse a difference; called inside the guard.

    Args:
        model: The model inside ``evaluate``; its modules are watched only after a difference.
        evaluate: Gives a loss and its gradient at fixed parameters and data, and leaves the random state where it
            got to: else random numbers would repeat and hide.

    Raises:
        NonDeterministic: Names the first module whose outputs differ though its inputs agree, and whether
            random numbers are the cause.

    Cost:
        Two evaluations; up to five after a difference.
    """
    first, second = evaluate(), evaluate()
    if _same(first, second):
        return
    seeded: list[tuple[float, Tensor]] = []
    for _ in range(2):
        seed_randomness(0, devices_of(model))
        seeded.append(evaluate())
    why = (
        "it draws random numbers"
        if _same(*seeded)
        else "it changes state of its own, or a kernel does not repeat"
    )
    culprit = _first_different(model, evaluate)
    where = f"; the first difference is in {culprit}" if culprit else ""
    raise NonDeterministic(
        f"two evaluations of the same batch differ (loss {number(first[0], 9)} and {number(second[0], 9)}, gradients by "
        f"{number(float((first[1] - second[1]).norm()))}): {why}{where}; use mode='eval', or make the model repeat itself"
    )


def _same(first: tuple[float, Tensor], second: tuple[float, Tensor]) -> bool:
    scale = float(first[1].norm()) + float(second[1].norm())
    slack = (
        50 * torch.finfo(first[1].dtype).eps
    )  # kernels that add in another order are no fault of the model
    return abs(first[0] - second[0]) <= slack * (abs(first[0]) + 1e-30) and float(
        (first[1] - second[1]).norm()
    ) <= slack * (scale + 1e-30)


def _first_different(model: nn.Module, evaluate: Callable[[], Any]) -> str | None:
    """The first module to end with other outputs on equal inputs in two runs: the innermost such module."""
    runs: list[list[tuple[str, list[Tensor], list[Tensor]]]] = []
    for _ in range(2):
        seen: list[tuple[str, list[Tensor], list[Tensor]]] = []
        handles = [
            module.register_forward_hook(_recorder(name, module, seen), with_kwargs=True)
            for name, module in model.named_modules()
        ]
        try:
            evaluate()
        finally:
            for handle in handles:
                handle.remove()
        runs.append(seen)
    for (name, inputs, outputs), (_, other_inputs, other_outputs) in zip(*runs, strict=False):
        if _equal(inputs, other_inputs) and not _equal(outputs, other_outputs):
            return name
    return None


def _recorder(
    name: str, module: nn.Module, seen: list[tuple[str, list[Tensor], list[Tensor]]]
) -> Callable[[nn.Module, Any, Any, Any], None]:
    def record(_module: nn.Module, inputs: Any, named: Any, outputs: Any) -> None:
        mode = " (in train mode)" if module.training else ""
        told = f"{name or 'the model'}: {type(module).__name__}{mode}"
        seen.append((told, _copies((inputs, named)), _copies(outputs)))

    return record


def _copies(values: Any) -> list[Tensor]:
    return [
        leaf.detach().clone() for leaf in pytree.tree_leaves(values) if isinstance(leaf, Tensor)
    ]


def _equal(first: list[Tensor], second: list[Tensor]) -> bool:
    return len(first) == len(second) and all(
        a.shape == b.shape and torch.equal(a, b) for a, b in zip(first, second, strict=True)
    )
