"""Inputs and features brought to mean 0 and variance 1: before the first layer, between layers, and taken out again.

Answers: how are inputs standardized, what does it do to their conditioning, where does normalization go in a model?
Does not answer: whether a training needs it.
"""

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.optim.swa_utils import update_bn

from unstick.errors import BadData, BadModel, BadRecipe, NonFinite
from unstick.problem.batches import freeze, place
from unstick.problem.guard import visiting
from unstick.problem.layout import layout_of
from unstick.problem.memory import DEFAULT_MEMORY
from unstick.record import Fact, Record, number

__all__ = [
    "Conditioning",
    "Standardizer",
    "batch_norm",
    "condition_number",
    "insert_normalization",
    "layer_norm",
    "recompute_statistics",
    "strip_normalization",
]

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, *TRANSPOSED)
LAYERS = (nn.Linear, *CONVOLUTIONS)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
NORMS = (*BATCH_NORMS, *INSTANCE_NORMS, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)

KINDS = ("batch", "layer")
PLACES = ("activation", "layer")


@dataclass(frozen=True, slots=True, eq=False)
class Standardizer:
    """Mean and standard deviation of training inputs, to move and scale any inputs by.

    Example:
        >>> raw = torch.tensor([[1.0, 5.0], [3.0, 5.0]])
        >>> Standardizer.fit(raw).apply(raw).tolist()
        [[-1.0, 0.0], [1.0, 0.0]]
    """

    mean: Tensor  # [1, features] or [1, channels, 1, 1], float64
    deviation: Tensor  # the same shape; 1 where an input is constant

    @classmethod
    def fit(cls, inputs: Tensor) -> Self:
        """Of training inputs: [N, features] one by one, images [N, channels, height, width] channel by channel.

        What is constant is moved to 0 and not scaled.

        Raises:
            BadData: No sample, or no dimension beside the samples.
            NonFinite: inf or nan.
        """
        _check_inputs(inputs)
        wide = inputs.double()
        over = (0, 2, 3) if inputs.ndim == 4 else (0,)
        least, most = wide.amin(over, keepdim=True), wide.amax(over, keepdim=True)
        mean = wide.mean(over, keepdim=True)
        deviation = wide.std(over, correction=0, keepdim=True)
        constant = least == most
        return cls(torch.where(constant, least, mean), deviation.masked_fill(constant, 1.0))

    def apply(self, inputs: Tensor) -> Tensor:
        """(inputs − mean)/deviation, computed in float64, in the inputs' own type (integers become float32).

        Raises:
            BadData: Inputs that the mean does not broadcast to.
        """
        shared = 2 if self.mean.ndim == 4 else self.mean.ndim  # images may have another size
        if inputs.ndim != self.mean.ndim or inputs.shape[1:shared] != self.mean.shape[1:shared]:
            raise BadData(
                f"inputs have shape {list(inputs.shape)}; expected samples as those it was fitted on, which have a "
                f"mean of shape {list(self.mean.shape[1:])}"
            )
        mean, deviation = self.mean.to(inputs.device), self.deviation.to(inputs.device)
        kind = inputs.dtype if inputs.is_floating_point() else torch.float32
        return ((inputs.double() - mean) / deviation).to(kind)

    def fold_into(self, layer: nn.Module) -> nn.Linear:
        """A copy of a layer that takes standardized inputs, which takes raw ones and gives the same outputs.

        Raises:
            BadModel: Not a linear layer of as many inputs.
        """
        return self._refitted(layer, 1 / self.deviation, -self.mean / self.deviation)

    def fold_out_of(self, layer: nn.Module) -> nn.Linear:
        """The reverse: a copy of a layer that takes raw inputs, which takes standardized ones.

        Raises:
            BadModel: Not a linear layer of as many inputs.
        """
        return self._refitted(layer, self.deviation, self.mean)

    def _refitted(self, layer: nn.Module, scale: Tensor, shift: Tensor) -> nn.Linear:
        """The layer behind x ↦ scale·x + shift, as one."""
        if not isinstance(layer, nn.Linear) or self.mean.shape != (1, layer.in_features):
            raise BadModel(
                f"the layer is {layer}; expected nn.Linear of {list(self.mean.shape[1:])} inputs, one for each feature"
            )
        W = layer.weight.detach().double()
        bias = W @ shift.to(W.device).flatten()
        own = dict(layer.named_parameters(recurse=False)).get("bias")
        if own is not None:
            bias = bias + own.detach().double()
        changed, train = copy.deepcopy(layer), layer.weight.requires_grad
        changed.weight = nn.Parameter((W * scale.to(W.device)).to(layer.weight.dtype), train)
        changed.bias = nn.Parameter(bias.to(layer.weight.dtype), train)
        return changed


@dataclass(frozen=True, slots=True)
class Conditioning(Record):
    """Condition number of XᵀX before and after standardization, over the directions that the inputs reach.

    Gradient descent on a linear model with squared error needs a number of steps proportional to it.
    """

    before: float
    after: float
    zero_before: int  # directions in which all inputs are 0, to float64; with any, the matrix itself is singular
    zero_after: int
    features: int

    def headline(self) -> str:
        """Both numbers."""
        return f"Standardizing takes the condition number from {number(self.before)} to {number(self.after)}."

    def facts(self) -> list[Fact]:
        """The directions that count and those that do not."""
        return [
            (
                "before",
                f"{number(self.before)}, {self.zero_before} of {self.features} directions are zero",
            ),
            (
                "after",
                f"{number(self.after)}, {self.zero_after} of {self.features} directions are zero",
            ),
        ]


def condition_number(inputs: Tensor) -> Conditioning:
    """Measure the condition number of XᵀX, of inputs as they are and standardized.

    Args:
        inputs: [N, …]; each sample is flattened to one row of X.

    Returns:
        Ratios of the largest to the smallest eigenvalue above zero: squares of the singular values of X in float64,
        where those up to max(N, features)·eps of the largest count as zero.

    Raises:
        BadData: No sample, or inputs that are all alike.
        NonFinite: inf or nan.

    Cost:
        Two singular value decompositions without vectors, O(N·features²).

    References:
        LeCun, Bottou, Orr, Müller (1998), Efficient BackProp, section 4.3.

    Example:
        >>> found = condition_number(torch.tensor([[1.0, 10.0], [-1.0, 10.0], [1.0, -10.0], [-1.0, -10.0]]))
        >>> round(found.before, 6), round(found.after, 6)
        (100.0, 1.0)
    """
    standardized = Standardizer.fit(inputs).apply(inputs.double())
    if not standardized.any():
        raise BadData("the inputs are all alike; expected samples that differ")
    (before, zero_before), (after, zero_after) = (
        _condition(inputs.double()),
        _condition(standardized),
    )
    return Conditioning(before, after, zero_before, zero_after, inputs[0].numel())


def batch_norm(features: int, *, p: float = 0.9, dims: int = 1) -> nn.Module:
    """Batch normalization whose statistics for test time follow μ̄ ← p·μ̄ + (1 − p)·μ.

    PyTorch's ``momentum`` is 1 − p; its variance of a batch is biased where it normalizes, unbiased where it averages.

    Args:
        features: Channels, the second dimension of its input.
        p: What the average keeps at each update, from 0 (the last batch only) to below 1.
        dims: 1 for [N, C] and [N, C, L], 2 for images, 3 for volumes.

    Raises:
        BadRecipe: p or dims out of range.

    References:
        Ioffe, Szegedy (2015), Batch normalization.

    Example:
        >>> batch_norm(8, p=0.75).momentum
        0.25
    """
    if not 0 <= p < 1:
        raise BadRecipe(
            f"p is {p}; expected 0 to below 1, the share of the moving average that is kept"
        )
    if dims not in (1, 2, 3):
        raise BadRecipe(f"dims is {dims}; expected 1, 2 or 3")
    return BATCH_NORMS[dims - 1](features, momentum=1 - p)


def layer_norm(features: int, *, dims: int = 0) -> nn.Module:
    """Normalization of each sample by itself, with a scale and a shift for each feature.

    Args:
        features: Of the last dimension; with dims, channels.
        dims: 0: over the last dimension. 1 to 3: over channels and all positions of what a convolution of so many
            dimensions gives, whatever their size: GroupNorm of one group.

    Raises:
        BadRecipe: dims out of range.

    References:
        Ba, Kiros, Hinton (2016), Layer normalization.
    """
    if dims not in (0, 1, 2, 3):
        raise BadRecipe(f"dims is {dims}; expected 0 to 3")
    return nn.GroupNorm(1, features) if dims else nn.LayerNorm(features)


def insert_normalization(
    model: nn.Module, *, kind: str = "batch", p: float = 0.9, before: str = "activation"
) -> nn.Module:
    """A copy of a model with normalization at each linear layer and convolution but one.

    Inside ``nn.Sequential`` it is an entry of its own, so that the numbers of later entries move; anywhere else the
    layer and its normalization become a ``nn.Sequential`` in the layer's place. Linear layers are taken to give
    [N, features]. Layers inside torch's own blocks (attention, transformers) are left alone.

    Args:
        model: Stays as it is.
        kind: ``batch``, or ``layer`` (for a convolution over channels and positions).
        p: As of ``batch_norm``.
        before: ``activation``: right after each layer but the last that is called. ``layer``: right in front of each
            but the first.

    Raises:
        BadRecipe: An unknown kind or place, or p out of range.
        BadModel: It normalizes already, fewer than two layers, or a forward pass that cannot be followed or that
            uses a layer otherwise than calling it once.

    Example:
        >>> plain = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> [type(module).__name__ for module in insert_normalization(plain)]
        ['Linear', 'BatchNorm1d', 'ReLU', 'Linear']
    """
    for name, choice, known in (("kind", kind, KINDS), ("before", before, PLACES)):
        if choice not in known:
            raise BadRecipe(f"{name} is {choice!r}; expected one of {', '.join(known)}")
    if there := [name for name, module in model.named_modules() if isinstance(module, NORMS)]:
        raise BadModel(f"the model normalizes already ({', '.join(there)}); strip that first")
    changed, after = copy.deepcopy(model), before == "activation"
    called = [node.target for node in _calls(_graph(changed), changed, LAYERS)]
    places = [
        (changed.get_submodule(_above(name)), changed.get_submodule(name))
        for name in dict.fromkeys(called[:-1] if after else called[1:])
    ]
    if not places:
        raise BadModel(
            f"the model calls {len(called)} linear layers or convolutions that can be reached; expected at least two"
        )
    inserted: dict[nn.Module, nn.Module] = {}
    for parent, layer in places:
        inserted[layer] = _norm_beside(layer, kind, p, after)
        _put_beside(parent, layer, inserted[layer], after)
    _check_inserted(changed, inserted, after)
    return changed


def strip_normalization(model: nn.Module, *, fold: bool = True) -> nn.Module:
    """A copy of a model with ``nn.Identity`` in place of its normalization.

    Args:
        model: Stays as it is.
        fold: Take batch normalization, as it acts in eval mode, into the linear layer or convolution before it, so
            that the outputs in eval mode stay the same up to rounding; other normalization depends on each sample and
            stays. False: all normalization goes, and the outputs change.

    Raises:
        BadModel: Nothing to strip, or, with fold, batch normalization that does not come straight from a layer used
            only there, or that keeps no statistics.

    References:
        torch.nn.utils.fusion.
    """
    kinds = BATCH_NORMS if fold else NORMS
    changed = copy.deepcopy(model)
    everywhere = list(changed.named_modules(remove_duplicate=False))
    found = [name for name, module in everywhere if name and isinstance(module, kinds)]
    if not found:
        what = "batch normalization to fold" if fold else "normalization to strip"
        raise BadModel(f"the model has no {what}; it has {', '.join(_kinds(model))}")
    if fold:
        modes = [(module, module.training) for module in changed.modules()]
        graph = _graph(changed.eval())  # what is to stay the same
        for module, mode in modes:
            module.training = mode
        for name in dict.fromkeys(
            name for name, m in changed.named_modules() if isinstance(m, kinds)
        ):
            _fold(changed, graph, name)
    for name in found:
        mode = changed.get_submodule(name).training
        setattr(
            changed.get_submodule(_above(name)), name.rpartition(".")[2], nn.Identity().train(mode)
        )
    return changed


def recompute_statistics(model: nn.Module, batches: Any, *, seed: int = 0) -> None:
    """Compute the statistics of all batch normalization anew over data, in place, by ``torch.optim.swa_utils.update_bn``.

    Needed after weights were averaged or moved otherwise than by training. Every batch counts alike, so that a smaller
    last one counts more than its samples; variances are means of those within the batches. Parameters, modes, momentum
    and all other buffers stay as they are, and everything does after an error.

    Args:
        model: In eval mode it uses the result. Dropout acts as in training.
        batches: A DataLoader, a pair of tensors (inputs, targets: one batch), or a sequence of batches. Of a batch of
            several parts the first goes into the model.
        seed: Of dropout.

    Raises:
        BadData: No batch, more than can be held, or a batch that has no variance (one sample).
        NonFinite: The data hold inf or nan.
        BadModel: No trainable parameter, or no batch normalization that keeps statistics.

    Cost:
        One forward pass over the data, held in memory, and a copy of the model.

    References:
        Izmailov, Podoprikhin, Garipov, Vetrov, Wilson (2018), Averaging weights leads to wider optima.
    """
    layout = layout_of(model)
    own = [m for m in model.modules() if isinstance(m, BATCH_NORMS) and m.track_running_stats]
    if not own:
        raise BadModel(
            f"the model has no batch normalization that keeps statistics; it has {', '.join(_kinds(model))}"
        )
    given: Iterable[Any] = [batches] if isinstance(batches, Tensor) else batches
    held, _ = freeze(given, samples=None, seed=0, memory=DEFAULT_MEMORY)
    ready = [place(batch, layout.device, layout.dtype) for batch in held]
    worker = copy.deepcopy(model)
    with visiting(worker, training=True), torch.no_grad():
        torch.default_generator.manual_seed(seed)
        if layout.device.type == "cuda":
            with torch.cuda.device(layout.device):
                torch.cuda.manual_seed(seed)
        try:
            update_bn(ready, worker)
        except ValueError as error:
            raise BadData(f"{error}; leave out batches of one sample, such as a last one") from None
    theirs = [m for m in worker.modules() if isinstance(m, BATCH_NORMS) and m.track_running_stats]
    with torch.no_grad():
        for mine, new in zip(own, theirs, strict=True):
            for buffer, value in zip(mine.buffers(), new.buffers(), strict=True):
                buffer.copy_(value)


class _Tracer(fx.Tracer):
    """Follows the forward pass down to what holds no layer and no normalization."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        inside = any(isinstance(part, (*LAYERS, *NORMS)) for part in m.modules() if part is not m)
        return not inside or super().is_leaf_module(m, module_qualified_name)


def _graph(model: nn.Module) -> fx.Graph:
    try:
        return _Tracer().trace(model)
    except Exception as error:  # whatever a user's forward raises when it meets a symbol
        told = " ".join(str(error).split())
        raise BadModel(
            f"the forward pass of {type(model).__name__} cannot be followed ({type(error).__name__}: {told}); build it "
            "of nn.Sequential, or change the normalization by hand"
        ) from error


def _calls(graph: fx.Graph, model: nn.Module, kinds: tuple[type[nn.Module], ...]) -> list[Any]:
    """The calls of modules of these kinds, in order."""
    calls: list[Any] = [node for node in graph.nodes if node.op == "call_module"]
    return [node for node in calls if isinstance(model.get_submodule(node.target), kinds)]


def _above(name: str) -> str:
    """The name of the module that holds a part."""
    return name.rpartition(".")[0]


def _norm_beside(layer: nn.Module, kind: str, p: float, after: bool) -> nn.Module:
    if isinstance(layer, CONVOLUTIONS):
        features = layer.out_channels if after else layer.in_channels
        dims = len(layer.kernel_size)
    else:
        assert isinstance(layer, nn.Linear), "only layers are given"
        features, dims = layer.out_features if after else layer.in_features, 0
    norm = (
        batch_norm(features, p=p, dims=dims or 1)
        if kind == "batch"
        else layer_norm(features, dims=dims)
    )
    weight = layer.weight
    return norm.to(weight.device, weight.dtype).train(layer.training)


def _put_beside(parent: nn.Module, layer: nn.Module, norm: nn.Module, after: bool) -> None:
    held: dict[str, nn.Module] = vars(parent)["_modules"]
    entries = list(held.items())
    at, key = next((i, name) for i, (name, module) in enumerate(entries) if module is layer)
    if not isinstance(parent, nn.Sequential):
        setattr(parent, key, nn.Sequential(*((layer, norm) if after else (norm, layer))))
        return
    entries.insert(at + after, (f"{key}_norm", norm))
    if all(name.isdigit() for name in held):
        entries = [(str(i), module) for i, (_, module) in enumerate(entries)]
    held.clear()
    held.update(entries)


def _check_inserted(model: nn.Module, inserted: dict[nn.Module, nn.Module], after: bool) -> None:
    """Refuse where a normalization is not called once, next to its layer."""
    graph = _graph(model)
    for layer, norm in inserted.items():
        calls = [
            node
            for node in _calls(graph, model, (type(norm),))
            if model.get_submodule(node.target) is norm
        ]
        uses = [
            node
            for node in _calls(graph, model, LAYERS)
            if model.get_submodule(node.target) is layer
        ]
        if len(calls) == len(uses) == 1:
            first, second = (uses[0], calls[0]) if after else (calls[0], uses[0])
            if second.all_input_nodes == [first]:
                continue
        raise BadModel(
            f"{layer} is used twice, picked by its number, or otherwise than by calling it; expected one call: "
            "insert normalization by hand"
        )


def _fold(model: nn.Module, graph: fx.Graph, name: str) -> None:
    """Take one batch normalization into the layer before it."""
    norm: Any = model.get_submodule(name)
    calls = [node for node in _calls(graph, model, BATCH_NORMS) if node.target == name]
    source = calls[0].all_input_nodes[0] if len(calls) == 1 else None
    layer: Any = (
        model.get_submodule(source.target) if source and source.op == "call_module" else None
    )
    if source is None or not isinstance(layer, LAYERS) or not _foldable(graph, source, layer, norm):
        raise BadModel(
            f"batch normalization {name!r} cannot be folded: expected statistics of its own, and as its only input a "
            "plain linear layer or convolution whose output and weight nothing else uses; fold=False drops it"
        )
    trainable = layer.weight.requires_grad if layer.bias is None else layer.bias.requires_grad
    with torch.no_grad():
        weight, bias = fuse_conv_bn_weights(
            layer.weight, layer.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias,
            transpose=isinstance(layer, TRANSPOSED),
        )  # fmt: skip
    bias.requires_grad_(trainable)
    layer.weight, layer.bias = weight, bias


def _foldable(graph: fx.Graph, source: Any, layer: Any, norm: Any) -> bool:
    others = [
        node
        for node in graph.nodes
        if (node.op == "call_module" and node.target == source.target and node is not source)
        or (node.op == "get_attr" and str(node.target).startswith(f"{source.target}."))
    ]
    linear = isinstance(layer, nn.Linear)
    features = layer.out_features if linear else layer.out_channels
    grouped = (
        isinstance(layer, TRANSPOSED) and layer.groups > 1
    )  # torch's fusion takes these for plain ones
    return (
        not others
        and len(source.users) == 1
        and norm.running_mean is not None
        and norm.num_features == features
        and not grouped
        and not parametrize.is_parametrized(layer)
    )


def _condition(inputs: Tensor) -> tuple[float, int]:
    """Condition number of XᵀX over the directions above zero, and how many are not."""
    X = inputs.flatten(1)
    singular = torch.linalg.svdvals(X)
    kept = singular[singular > max(X.shape) * torch.finfo(torch.float64).eps * singular[0]]
    return float((kept[0] / kept[-1]) ** 2), X.shape[1] - len(kept)


def _check_inputs(inputs: Tensor) -> None:
    if inputs.ndim < 2 or inputs.numel() == 0:
        raise BadData(
            f"inputs have shape {list(inputs.shape)}; expected [samples, features, …], not empty"
        )
    if not torch.isfinite(inputs).all():
        raise NonFinite("inputs hold inf or nan; expected finite data: clean them first")


def _kinds(model: nn.Module) -> list[str]:
    return list(dict.fromkeys(type(module).__name__ for module in model.modules()))
