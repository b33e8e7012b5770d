"""Features brought to mean 0 and variance 1 between layers, and taken out again.

Answers: where does normalization go in a model, what is it without, and what do its statistics become on other data?
Does not answer: what standardizing the inputs does (``standardizing``); whether a training needs it.
"""

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.optim import Optimizer
from torch.optim.swa_utils import update_bn

from unstick.errors import BadData, BadModel, BadRecipe
from unstick.problem.batches import freeze, place
from unstick.problem.guard import devices_of, put_back_modes, seed_randomness, visiting
from unstick.problem.layout import layout_of
from unstick.problem.memory import DEFAULT_MEMORY
from unstick.training.settings import check_choice

__all__ = [
    "BATCH_NORMS",
    "CONVOLUTIONS",
    "INSTANCE_NORMS",
    "LAYERS",
    "NORMS",
    "TRANSPOSED",
    "add_alike",
    "batch_norm",
    "hand_over",
    "insert_normalization",
    "keeping_statistics",
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
    check_choice(KINDS, kind=kind)
    check_choice(PLACES, before=before)
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


def hand_over(
    optimizer: Optimizer, old: nn.Module, new: nn.Module
) -> dict[nn.Parameter, nn.Parameter]:
    """Let an optimizer go on with a model that normalization was inserted into.

    Every parameter of the new model takes the place of its like in the old one: its group, settings and memory. Those
    of the normalization join the first group.

    Args:
        optimizer: Of parameters of the old model; changed in place.
        old: As ``insert_normalization`` was given it.
        new: What that returned.

    Returns:
        Old parameter → new one.

    Raises:
        BadModel: The models differ in more than normalization.
    """
    ours, theirs = _outside_norms(old), _outside_norms(new)
    if [p.shape for p in ours] != [p.shape for p in theirs]:
        raise BadModel(
            f"the old model has {len(ours)} parameters outside normalization and the new one {len(theirs)}, or of other "
            "shapes; expected a model that normalization was inserted into"
        )
    twins = dict(zip(ours, theirs, strict=True))
    for group in optimizer.param_groups:
        group["params"] = [twins.get(p, p) for p in group["params"]]
    for mine, other in twins.items():
        if mine in optimizer.state:
            optimizer.state[other] = optimizer.state.pop(mine)
    known = {id(p) for p in theirs}
    added = [p for p in new.parameters() if id(p) not in known and p.requires_grad]
    if added:
        add_alike(optimizer, added)
    return twins


def add_alike(optimizer: Optimizer, parameters: list[nn.Parameter]) -> None:
    """More parameters for an optimizer, as a group with the settings of its first one."""
    first = optimizer.param_groups[0]
    settings = {key: value for key, value in first.items() if key != "params"}
    optimizer.add_param_group({"params": parameters, **settings})


def _outside_norms(model: nn.Module) -> list[nn.Parameter]:
    inside = {id(p) for m in model.modules() if isinstance(m, NORMS) for p in m.parameters()}
    return [p for p in model.parameters() if id(p) not in inside]


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
        with put_back_modes(changed):
            graph = _graph(changed.eval())  # what is to stay the same
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


def keeping_statistics(model: nn.Module) -> list[nn.Module]:
    """The batch normalization of a model that keeps statistics, in ``modules`` order."""
    return [m for m in model.modules() if isinstance(m, BATCH_NORMS) and m.track_running_stats]


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
    own = keeping_statistics(model)
    if not own:
        raise BadModel(
            f"the model has no batch normalization that keeps statistics; it has {', '.join(_kinds(model))}"
        )
    given: Iterable[Any] = [batches] if isinstance(batches, Tensor) else batches
    held, _ = freeze(given, samples=None, seed=0, memory=DEFAULT_MEMORY)
    ready = [place(batch, layout.device, layout.dtype) for batch in held]
    worker = copy.deepcopy(model)
    with visiting(worker, training=True), torch.no_grad():
        seed_randomness(seed, devices_of(worker))
        try:
            update_bn(ready, worker)
        except ValueError as error:
            raise BadData(f"{error}; leave out batches of one sample, such as a last one") from None
    with torch.no_grad():
        for mine, new in zip(own, keeping_statistics(worker), strict=True):
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


def _kinds(model: nn.Module) -> list[str]:
    return list(dict.fromkeys(type(module).__name__ for module in model.modules()))
