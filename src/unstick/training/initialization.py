"""How a training begins: weights drawn by a scheme or taken from another model, and what signal they let through.

Answers: where do the parameters start, from which seed, and how does the variance change from layer to layer?
Does not answer: how they move from there.
"""

import copy
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import pairwise
from math import isfinite, nan, sqrt
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from unstick.errors import BadCheckpoint, BadData, BadModel, BadRecipe, NonFinite
from unstick.problem.batches import leaves, place
from unstick.problem.guard import put_back_randomness, visiting
from unstick.problem.layout import layout_of
from unstick.record import Fact, Record, number
from unstick.training.normalization import (
    BATCH_NORMS,
    CONVOLUTIONS,
    INSTANCE_NORMS,
    LAYERS,
    NORMS,
    TRANSPOSED,
)
from unstick.training.order import generator_for

__all__ = [
    "BIASES",
    "SCHEMES",
    "Initialized",
    "Kept",
    "LayerSignal",
    "Pretrained",
    "SignalByLayer",
    "initialize",
    "load_pretrained",
    "signal_by_layer",
]

SCHEMES = ("zero", "one", "constant", "normal", "xavier", "he", "orthogonal", "default")
"""What ``initialize`` knows."""

BIASES = ("zero", "default", "keep")
"""What it does with biases: 0, as torch draws them, or nothing."""

GAINS = {
    "xavier": 1.0,
    "he": sqrt(2),
    "orthogonal": 1.0,
}  # √2 makes up for the half that a ReLU cuts
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


@dataclass(frozen=True, slots=True)
class LayerSignal:
    """What one layer puts out."""

    name: str
    kind: str  # class of the module
    variance: float  # over samples and units together; nan where not finite
    ratio: (
        float | None
    )  # to the layer before, the first one's to the inputs; None where that is 0 or not known
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
    _check_built(model)
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
    _check_built(model)
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
        >>> _ = initialize(model, "constant", value=3.0, seed=0)
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
        _buffers_put_back(model),
        torch.set_grad_enabled(loss is not None),
    ):
        _seed(layout.device, seed)
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
        torch.default_generator.manual_seed(seed)
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


@contextmanager
def _buffers_put_back(model: nn.Module) -> Generator[None]:
    """Afterwards every buffer is the tensor that it was, with the values that it had."""
    before = [
        (module, name, buffer, buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False)
    ]
    try:
        yield
    finally:
        with torch.no_grad():
            for module, name, buffer, values in before:
                vars(module)["_buffers"][name] = buffer
                buffer.copy_(values)


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


def _seed(device: torch.device, seed: int) -> None:
    """Seed only the generators that the guard puts back."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


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


def _check_scheme(scheme: str, biases: str, std: float, value: float, gain: float | None) -> None:
    for name, choice, known in (("scheme", scheme, SCHEMES), ("biases", biases, BIASES)):
        if choice not in known:
            raise BadRecipe(f"{name} is {choice!r}; expected one of {', '.join(known)}")
    if not (isfinite(std) and std >= 0 and isfinite(value)):
        raise BadRecipe(f"std is {std}, value is {value}; expected finite numbers, std at least 0")
    if gain is not None and (scheme not in GAINS or not isfinite(gain) or gain <= 0):
        raise BadRecipe(
            f"gain is {gain} with {scheme!r}; expected a number above 0, with {', '.join(GAINS)} only"
        )


def _check_built(model: nn.Module) -> None:
    for name, held in (*model.named_parameters(), *model.named_buffers()):
        if isinstance(held, (nn.UninitializedParameter, nn.parameter.UninitializedBuffer)):
            raise BadModel(
                f"{name} has no shape yet (a lazy module): run the model once on a batch first"
            )


def _told(layer: LayerSignal) -> str:
    return f"{layer.name} ({layer.kind})"


def _shape(shape: tuple[int, ...] | None) -> str:
    return "not there" if shape is None else str(list(shape))


def _listed(tensors: Mapping[str, Tensor], most: int = 4) -> str:
    told = [f"{name} {list(held.shape)}" for name, held in list(tensors.items())[:most]]
    more = len(tensors) - most
    return ", ".join(told) + (f" and {more} more" if more > 0 else "")
