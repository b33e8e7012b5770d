"""How parameters lie in one flat vector, and which part of it belongs to which tensor.

Answers: where is a parameter in [n], and how much of a vector does each tensor carry?
Does not answer: what the loss is there.
"""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from unstick.errors import BadModel, NonFinite

__all__ = ["Layout", "check_built", "layout_of"]


class Layout:
    """The trainable parameters of a model in ``named_parameters`` order, tied ones once.

    Of parameters that are spread over processes, the part that this one holds.

    Args:
        parameters: Name → parameter, in order.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        self._parameters = dict(parameters)
        self.names = tuple(parameters)
        self.shapes = tuple(_here(parameter).shape for parameter in parameters.values())
        self.sizes = tuple(_here(parameter).numel() for parameter in parameters.values())
        self.n = sum(self.sizes)

    @property
    def device(self) -> torch.device:
        """Where the parameters live."""
        return next(iter(self._parameters.values())).device

    @property
    def dtype(self) -> torch.dtype:
        """The widest type among the parameters."""
        kinds = [parameter.dtype for parameter in self._parameters.values()]
        widest = kinds[0]
        for kind in kinds[1:]:
            widest = torch.promote_types(widest, kind)
        return widest

    def read(self, dtype: torch.dtype) -> Tensor:
        """The current parameters as a new flat vector [n]."""
        with torch.inference_mode(False), torch.no_grad():
            return torch.cat(
                [_here(parameter).reshape(-1).to(dtype) for parameter in self._parameters.values()]
            )

    def write(self, theta: Tensor) -> None:
        """Set the parameters from a flat vector [n], each in its own type."""
        with torch.no_grad():
            for parameter, part in zip(self._parameters.values(), self.parts(theta), strict=True):
                _here(parameter).copy_(part)

    def copies(self) -> list[Tensor]:
        """The parameters bit for bit, for ``restore``."""
        return [_here(parameter).clone() for parameter in self._parameters.values()]

    def restore(self, copies: list[Tensor]) -> None:
        """Put copies back bit for bit."""
        with torch.no_grad():
            for parameter, copy in zip(self._parameters.values(), copies, strict=True):
                _here(parameter).copy_(copy)

    def parts(self, vector: Tensor) -> list[Tensor]:
        """Views of a flat vector in the shapes of the parameters; differentiable."""
        pieces = vector.split(self.sizes)
        return [piece.view(shape) for piece, shape in zip(pieces, self.shapes, strict=True)]

    def named(self, vector: Tensor) -> dict[str, Tensor]:
        """The views of ``parts`` by name."""
        return dict(zip(self.names, self.parts(vector), strict=True))

    def sums(self, vector: Tensor) -> dict[str, float]:
        """Sum of the entries of a flat vector in each tensor, by name."""
        pieces = vector.split(self.sizes)
        return {
            name: float(piece.sum(dtype=torch.float64))
            for name, piece in zip(self.names, pieces, strict=True)
        }

    def spread(self, given: Mapping[str, float]) -> Tensor:
        """A flat float64 vector [n] that holds one number throughout each tensor; 0 where none is given."""
        numbers = torch.tensor([given.get(name, 0.0) for name in self.names], dtype=torch.float64)
        return numbers.repeat_interleave(torch.tensor(self.sizes))

    def restrict(self, patterns: str | Sequence[str]) -> "Layout":
        """Only the parameters whose names match a pattern such as ``layers.0.*``, or one of several.

        Raises:
            BadModel: No name matches one of the patterns.
        """
        several = [patterns] if isinstance(patterns, str) else list(patterns)
        chosen: set[str] = set()
        for pattern in several:
            found = [name for name in self.names if fnmatchcase(name, pattern)]
            if not found:
                raise BadModel(
                    f"no trainable parameter matches {pattern!r}; there are {', '.join(self.names)}"
                )
            chosen.update(found)
        if not chosen:
            raise BadModel("no pattern was given; expected names such as 'layers.0.*'")
        return Layout({name: p for name, p in self._parameters.items() if name in chosen})

    def check_finite(self, model: nn.Module) -> None:
        """Refuse parameters that are not finite, of the whole model: frozen ones enter the loss too.

        Raises:
            NonFinite: Names the first such tensor and the place in it.
        """
        for name, parameter in model.named_parameters():
            bad = ~torch.isfinite(_here(parameter))
            if bad.any():
                raise NonFinite(
                    f"parameter {name} (shape {list(parameter.shape)}) holds {int(bad.sum())} values that are not "
                    f"finite, the first at {bad.nonzero()[0].tolist()}; load a checkpoint from before the loss broke"
                )


def layout_of(model: nn.Module) -> Layout:
    """The layout of a model's trainable parameters.

    Raises:
        BadModel: Nothing is trainable, or something is that is not real or has no shape yet.
    """
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not trainable:
        frozen = sum(1 for _ in model.parameters())
        raise BadModel(
            f"the model has no trainable parameter ({frozen} with requires_grad=False); expected at least one: "
            "set requires_grad=True on what you train"
        )
    check_built(model)
    for name, parameter in trainable.items():
        if not parameter.is_floating_point():
            raise BadModel(
                f"parameter {name} has type {parameter.dtype}; expected real floating point"
            )
    return Layout(trainable)


def check_built(model: nn.Module) -> None:
    """Refuse a model of which parts have no shape yet.

    Raises:
        BadModel: Names the first such parameter or buffer.
    """
    for name, held in (*model.named_parameters(), *model.named_buffers()):
        if isinstance(held, nn.UninitializedParameter | nn.UninitializedBuffer):
            raise BadModel(
                f"{name} has no shape yet (a lazy module): run the model once on a batch first"
            )


def _here(parameter: nn.Parameter) -> Tensor:
    """The memory of a parameter, or of its shard: what is written there is the parameter."""
    detached: Any = parameter.detach()
    local = getattr(detached, "to_local", None)  # of a DTensor, whose import takes a second
    return detached if local is None else local()
