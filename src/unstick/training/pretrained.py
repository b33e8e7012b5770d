"""Parameters that another training has learned, as the start of this one.

Answers: which tensors of a given state fit this model, and what became of the others?
Does not answer: where the rest starts (``initialization``).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from unstick.errors import BadCheckpoint, BadModel, NonFinite
from unstick.problem.layout import check_built
from unstick.record import Fact, Record

__all__ = ["Kept", "Pretrained", "load_pretrained"]


@dataclass(frozen=True, slots=True)
class Kept:
    """A tensor of the model that the state has in another shape, or not at all."""

    name: str
    shape: tuple[int, ...]  # in the model
    given: tuple[int, ...] | None  # in the state; None: not there


@dataclass(frozen=True, slots=True)
class Pretrained(Record):
    """Which tensors came from another model and which did not."""

    loaded: tuple[str, ...]
    kept: tuple[Kept, ...]  # wanted, but nothing fits
    unused: tuple[str, ...]  # names of the state that the model has not

    def headline(self) -> str:
        """How many tensors were loaded."""
        total = len(self.loaded) + len(self.kept)
        return (
            f"{len(self.loaded)} of {total} tensors loaded; {len(self.unused)} given ones unused."
        )

    def facts(self) -> list[Fact]:
        """What stays as it was, with both shapes, then the names."""
        shapes = [
            (f"{kept.name} kept", f"{list(kept.shape)}; given: {_shape(kept.given)}")
            for kept in self.kept
        ]
        return [
            *shapes,
            ("loaded", ", ".join(self.loaded)),
            ("unused", ", ".join(self.unused) or "none"),
        ]


def load_pretrained(
    model: nn.Module, state: Mapping[str, Any], *, only: str | Sequence[str] | None = None
) -> Pretrained:
    """Load, in place, the tensors of another model that fit this one by name and shape; the others stay as they are.

    So a head of another size keeps its own start, and all before it begins where the other training ended.

    Args:
        model: Takes them, parameters and buffers, frozen or not, each in its own type.
        state: A state dict, such as ``other.state_dict()``.
        only: Load only what matches a pattern such as ``features.*``, or one of several.

    Raises:
        BadCheckpoint: Not a state dict, or no parameter fits; nothing has changed.
        BadModel: A lazy module without shape, or a pattern that matches nothing.
        NonFinite: A tensor that fits holds inf or nan.

    Example:
        >>> old = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 10))
        >>> new = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4))
        >>> done = load_pretrained(new, old.state_dict())
        >>> done.loaded, done.kept[0]
        (('0.weight', '0.bias'), Kept(name='1.weight', shape=(4, 3), given=(10, 3)))
    """
    check_built(model)
    own = {name: held for name, held in model.state_dict().items() if isinstance(held, Tensor)}
    given = {name: held for name, held in state.items() if isinstance(held, Tensor)}
    if not given:
        raise BadCheckpoint(
            f"the state holds no tensor by name (it has {', '.join(map(str, state)) or 'nothing'}); expected a "
            "state dict such as model.state_dict()"
        )
    wanted = _matching(tuple(own), only)
    loaded = tuple(n for n in wanted if n in given and given[n].shape == own[n].shape)
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    if parameters.isdisjoint(loaded):
        raise BadCheckpoint(
            f"no parameter of the state fits: it has {_listed(given)}; the model has "
            f"{_listed({name: own[name] for name in wanted})}; rename or choose a state of the same architecture"
        )
    for name in loaded:
        if not torch.isfinite(given[name]).all():
            raise NonFinite(
                f"{name} of the state holds inf or nan; load one from before the loss broke"
            )
    model.load_state_dict({name: given[name] for name in loaded}, strict=False)
    kept = tuple(
        Kept(name, tuple(own[name].shape), tuple(given[name].shape) if name in given else None)
        for name in wanted
        if name not in set(loaded)
    )
    return Pretrained(loaded, kept, tuple(name for name in given if name not in own))


def _matching(names: tuple[str, ...], only: str | Sequence[str] | None) -> tuple[str, ...]:
    if only is None:
        return names
    patterns = [only] if isinstance(only, str) else list(only)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise BadModel(
                f"nothing in the model matches {pattern!r}; there are {', '.join(names)}"
            )
    return tuple(name for name in names if any(fnmatchcase(name, p) for p in patterns))


def _shape(shape: tuple[int, ...] | None) -> str:
    return "not there" if shape is None else str(list(shape))


def _listed(tensors: Mapping[str, Tensor], most: int = 4) -> str:
    told = [f"{name} {list(held.shape)}" for name, held in list(tensors.items())[:most]]
    more = len(tensors) - most
    return ", ".join(told) + (f" and {more} more" if more > 0 else "")
