"""How a training begins where nothing is learned yet: weights drawn by a scheme.

Answers: where do the parameters start, from which seed?
Does not answer: what signal that start lets through (``signals``); parameters learned elsewhere (``pretrained``).
"""

import copy
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from math import isfinite, nan, sqrt

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from unstick.errors import BadModel, BadRecipe
from unstick.problem.guard import put_back_randomness, seed_randomness
from unstick.problem.layout import check_built
from unstick.record import Fact, Record
from unstick.training.normalization import (
    BATCH_NORMS,
    CONVOLUTIONS,
    INSTANCE_NORMS,
    LAYERS,
    NORMS,
    TRANSPOSED,
)
from unstick.training.order import generator_for
from unstick.training.settings import check_choice

__all__ = ["BIASES", "SCHEMES", "Initialized", "initialize"]

SCHEMES = ("zero", "one", "constant", "normal", "xavier", "he", "orthogonal", "default")
"""What ``initialize`` knows."""

BIASES = ("zero", "default", "keep")
"""What it does with biases: 0, as torch draws them, or nothing."""

GAINS = {"xavier": 1.0, "he": sqrt(2), "orthogonal": 1.0}
"""√2 makes up for the half that a ReLU cuts."""

FILLED = {"zero": 0.0, "one": 1.0}

DENSE = (*LAYERS, nn.Bilinear)
TABLES = (nn.Embedding, nn.EmbeddingBag)


@dataclass(frozen=True, slots=True)
class Initialized(Record):
    """What ``initialize`` set and what it left alone."""

    scheme: str
    seed: int
    drawn: tuple[str, ...]  # weights that follow the scheme
    reset: tuple[str, ...]  # biases, and the scales and shifts of normalization
    left: Mapping[str, str]  # parameter → why it stays as it was

    def headline(self) -> str:
        """How many tensors were set, and by which scheme."""
        rest = f", {len(self.left)} left alone" if self.left else ""
        return f"{len(self.drawn)} weights by {self.scheme!r}, {len(self.reset)} others set{rest}."

    def facts(self) -> list[Fact]:
        """What was left alone and why, then what was set."""
        return [
            *((f"{name} left", why) for name, why in self.left.items()),
            ("weights", ", ".join(self.drawn)),
            ("others", ", ".join(self.reset) or "none"),
            ("seed", str(self.seed)),
        ]


def initialize(
    model: nn.Module,
    scheme: str,
    *,
    seed: int,
    std: float = 0.01,
    value: float = 0.05,
    gain: float | None = None,
    biases: str | None = None,
) -> Initialized:
    """Set the trainable parameters of a model, in place, to a start that a seed repeats on any device.

    The scheme sets weight matrices and convolution kernels, and what has two or more dimensions in modules of a
    user's own. Matrices stacked in one tensor (gates of an LSTM or GRU, the three of an attention's ``in_proj_weight``,
    groups of a convolution) are drawn one by one, each with its own fans. Normalization starts at scale 1, shift 0
    and statistics that have seen nothing. An embedding looks up and sums nothing, so that xavier, he and orthogonal
    give it torch's N(0, 1); its padding stays 0. Tied parameters are drawn once, as a matrix where one holder
    multiplies by them. What is frozen, parametrized, or neither a matrix nor a bias (such as the slope of a PReLU, or
    a learned token with one row) stays as it is, and the record says so.

    Args:
        model: Any module.
        scheme: ``zero``, ``one``, ``constant`` (``value``), ``normal`` (N(0, ``std``²)), ``xavier`` (uniform, variance
            2/(n_in + n_out)), ``he`` (normal, variance 2/n_in), ``orthogonal``, or ``default``: what each module's
            own ``reset_parameters`` draws, of all parameters that it sets.
        seed: Of all that is drawn; no global generator moves.
        std: Standard deviation of ``normal``.
        value: Of ``constant``.
        gain: Multiplies xavier (1 unless given), he (√2, for ReLU) and orthogonal (1).
        biases: One of ``BIASES``; None: ``default`` with the scheme of that name, else ``zero``.

    Raises:
        BadRecipe: An unknown scheme or a number out of range; nothing has changed.
        BadModel: A lazy module without shape, no weight to set, or a ``reset_parameters`` that fails; nothing has changed.

    Cost:
        The memory of the parameters once more; a QR factorization of each matrix for orthogonal.

    References:
        Glorot, Bengio (2010), Understanding the difficulty of training deep feedforward neural networks; He, Zhang,
        Ren, Sun (2015), Delving deep into rectifiers; Saxe, McClelland, Ganguli (2014), Exact solutions to the
        nonlinear dynamics of learning in deep linear neural networks.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.PReLU())
        >>> done = initialize(model, "constant", value=0.5, seed=0)
        >>> model[0].weight.tolist(), model[0].bias.tolist(), list(done.left)
        ([[0.5, 0.5], [0.5, 0.5]], [0.0, 0.0], ['1.weight'])
    """
    biases = biases or ("default" if scheme == "default" else "zero")
    _check_scheme(scheme, biases, std, value, gain)
    check_built(model)
    start = _Start(scheme, std, value, GAINS.get(scheme, 1.0) if gain is None else gain)
    generator = generator_for("model", seed)
    defaults = _defaults(model, seed) if "default" in (scheme, biases) else {}
    fresh: dict[str, Tensor] = {}
    drawn: list[str] = []
    left: dict[str, str] = {}
    parameters = dict(model.named_parameters())
    for name, part in _parts(model).items():
        if part.why and (scheme != "default" or not parameters[name].requires_grad):
            left[name] = part.why
        elif part.role == "bias" and biases == "keep":
            left[name] = "biases are kept"
        elif (biases if part.role == "bias" else scheme) == "default":
            if name in defaults:
                fresh[name] = defaults[name]
            else:
                left[name] = "no reset_parameters sets it"
        else:
            fresh[name] = start.values(parameters[name], part, generator)
        if name in fresh and part.role not in ("bias", "scale", "shift"):
            drawn.append(name)
    if not drawn:
        reasons = "; ".join(f"{name}: {why}" for name, why in left.items())
        raise BadModel(
            f"the model has no weight that {scheme!r} could set ({reasons or 'none at all'})"
        )
    with torch.no_grad():
        for name, values in fresh.items():
            parameters[name].copy_(values)
    _forget_statistics(model)
    reset = tuple(name for name in fresh if name not in set(drawn))
    return Initialized(scheme, seed, tuple(drawn), reset, left)


@dataclass(frozen=True, slots=True)
class _Part:
    """What a parameter is to the module that holds it."""

    role: str  # "matrix", "table", "bias", "scale", "shift", or "" where nothing is known
    blocks: int = 1  # matrices stacked along the first dimension
    transposed: bool = False  # [in, out, …] instead of [out, in, …]
    padding: int | None = None  # row of a table that stays 0
    why: str = ""  # it is left alone


@dataclass(frozen=True, slots=True)
class _Start:
    """A scheme with its numbers."""

    scheme: str
    std: float
    value: float
    gain: float

    def values(self, parameter: Tensor, part: _Part, generator: torch.Generator) -> Tensor:
        """What the parameter starts from, on the CPU."""
        wide = torch.float64 if parameter.dtype == torch.float64 else torch.float32
        fresh = torch.zeros(parameter.shape, dtype=wide)
        if part.role == "scale":
            fresh.fill_(1.0)
        elif part.role == "table":
            if self.scheme in GAINS:
                nn.init.normal_(fresh, generator=generator)
            else:
                self._fill(fresh, generator)
            if part.padding is not None:
                fresh[part.padding] = 0.0
        elif part.role == "matrix" and fresh.numel():
            for block in fresh.chunk(part.blocks):
                kernel = block.transpose(0, 1) if part.transposed else block
                kernel.copy_(self._fill(torch.empty(kernel.shape, dtype=wide), generator))
        return fresh

    def _fill(self, matrix: Tensor, generator: torch.Generator) -> Tensor:
        if self.scheme == "normal":
            return nn.init.normal_(matrix, std=self.std, generator=generator)
        if self.scheme == "xavier":
            return nn.init.xavier_uniform_(matrix, gain=self.gain, generator=generator)
        if self.scheme == "he":
            nn.init.kaiming_normal_(matrix, nonlinearity="linear", generator=generator)
            return matrix.mul_(self.gain)
        if self.scheme == "orthogonal":
            return nn.init.orthogonal_(matrix, gain=self.gain, generator=generator)
        return matrix.fill_(FILLED.get(self.scheme, self.value))


def _parts(model: nn.Module) -> dict[str, _Part]:
    """What every parameter is, tied ones once: as a matrix where one of their holders multiplies by them."""
    found: dict[int, _Part] = {}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            part = _part(module, name, parameter)
            if id(parameter) not in found or part.role == "matrix":
                found[id(parameter)] = part
    return {name: found[id(parameter)] for name, parameter in model.named_parameters()}


def _part(module: nn.Module, name: str, parameter: Tensor) -> _Part:
    if not parameter.requires_grad:
        return _Part("", why="frozen")
    if isinstance(module, parametrize.ParametrizationList) or (
        isinstance(module, DENSE) and name not in ("weight", "bias")
    ):
        return _Part("", why="the weight is computed from it")
    if isinstance(module, NORMS):
        return _Part("scale" if name == "weight" else "shift")
    if parameter.ndim < 2:
        return _Part("bias") if "bias" in name else _Part("", why="neither a matrix nor a bias")
    if isinstance(module, TABLES):
        return _Part("table", padding=module.padding_idx)
    if isinstance(module, CONVOLUTIONS):
        return _Part("matrix", module.groups, isinstance(module, TRANSPOSED))
    if isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
        return _Part("matrix", max(1, len(parameter) // module.hidden_size))
    if isinstance(module, nn.MultiheadAttention) and name == "in_proj_weight":
        return _Part("matrix", blocks=3)
    if len(parameter) == 1 and not isinstance(module, DENSE):
        return _Part("", why="one row, such as a learned token: no matrix")
    return _Part("matrix")


def _defaults(model: nn.Module, seed: int) -> dict[str, Tensor]:
    """What the modules' own ``reset_parameters`` set, drawn on a copy on the CPU, in the order of construction."""
    fresh = copy.deepcopy(model).cpu()
    with torch.no_grad():
        for parameter in fresh.parameters():
            if parameter.is_floating_point():
                parameter.fill_(nan)  # what stays nan, nobody sets
    with put_back_randomness([]):
        seed_randomness(seed, [])
        for module in _inner_first(fresh):
            own = getattr(module, "_reset_parameters", None)  # attention and transformers have this
            again = getattr(module, "reset_parameters", own)
            if again is None or parametrize.is_parametrized(module):
                continue
            try:
                again()
            except Exception as error:  # whatever a user's module raises
                told = " ".join(str(error).split())
                raise BadModel(
                    f"reset_parameters of {type(module).__name__} failed: {type(error).__name__}: {told}"
                ) from error
    return {
        name: parameter.detach()
        for name, parameter in fresh.named_parameters()
        if not torch.isnan(parameter).any()
    }


def _inner_first(module: nn.Module) -> Generator[nn.Module]:
    for child in module.children():
        yield from _inner_first(child)
    yield module


def _forget_statistics(model: nn.Module) -> None:
    for module in model.modules():
        frozen = any(not p.requires_grad for p in module.parameters(recurse=False))
        if isinstance(module, (*BATCH_NORMS, *INSTANCE_NORMS)) and not frozen:
            module.reset_running_stats()


def _check_scheme(scheme: str, biases: str, std: float, value: float, gain: float | None) -> None:
    check_choice(SCHEMES, scheme=scheme)
    check_choice(BIASES, biases=biases)
    if not (isfinite(std) and std >= 0 and isfinite(value)):
        raise BadRecipe(f"std is {std}, value is {value}; expected finite numbers, std at least 0")
    if gain is not None and (scheme not in GAINS or not isfinite(gain) or gain <= 0):
        raise BadRecipe(
            f"gain is {gain} with {scheme!r}; expected a number above 0, with {', '.join(GAINS)} only"
        )
