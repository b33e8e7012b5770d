"""A batch's loss, cut where it stops being affine in the parameters.

Answers: what of a loss is computed once for a whole plane of parameter vectors, and what is left to do at each?
Does not answer: which points there are, and what their losses are; ``along`` does that.

The first layer applied to frozen inputs is affine in the parameters, X(W + xB + yC) = XW + x·XB + y·XC, and so is every
other product of which one factor is frozen. The loss is recorded operation by operation, and the record tells.
"""

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.func import functionalize, vmap
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from unstick.errors import BadModel
from unstick.problem.batches import Batch, leaves

__all__ = ["Cut", "cut", "together"]

aten = torch.ops.aten

FACTORS: dict[Any, tuple[int, int]] = {
    aten.mm.default: (0, 1),
    aten.mv.default: (0, 1),
    aten.dot.default: (0, 1),
    aten.bmm.default: (0, 1),
    aten.addmm.default: (1, 2),
    aten.addmv.default: (1, 2),
    aten.baddbmm.default: (1, 2),
    aten.mul.Tensor: (0, 1),
    aten.convolution.default: (0, 1),
}
"""Operations that are affine in all they are given while one of these two arguments does not move."""

LINEAR = (
    *(aten.add.Tensor, aten.sub.Tensor, aten.neg.default, aten.cat.default, aten.stack.default),
    *(aten.sum.default, aten.sum.dim_IntList, aten.mean.default, aten.mean.dim),
    *(aten.embedding.default, aten.clone.default, aten._unsafe_view.default),
)
"""Operations that are affine in all the tensors of numbers that they are given."""

VIEWS = (
    *(aten.view.default, aten.t.default, aten.transpose.int, aten.permute.default),
    *(aten.unsqueeze.default, aten.squeeze.dim, aten.squeeze.dims, aten.squeeze.default),
    *(aten.expand.default, aten.slice.Tensor, aten.select.int, aten.alias.default),
    *(aten.split.Tensor, aten.split_with_sizes.default, aten.unbind.int, aten.detach.default),
    operator.getitem,
)
"""Operations that are linear and cost nothing: they are done again at each point, sooner than kept."""

WRITING = {
    getattr(aten, name).default: getattr(aten, f"{name}_").default
    for name in ("relu", "tanh", "sigmoid", "silu", "gelu", "elu", "leaky_relu")
}
"""Operations that can write into what they are given, where nobody else needs it."""

SOFTMAXES = (aten._log_softmax.default, aten._softmax.default)
SHORT = 16
"""Shorter rows do not fill a processor's vectors: measured, ten classes take a tenth of the time as columns."""

FIXED, AFFINE, CURVED = range(3)


@dataclass(frozen=True, eq=False)
class Cut:
    """The parts of one batch's loss; each takes θ [n] and the tensors of a batch, or what the parts before gave."""

    fixed: Callable[..., tuple[Tensor, ...]]  # θ and a batch → what does not depend on θ
    affine: Callable[..., tuple[Tensor, ...]]  # θ and a batch → what is affine in θ
    rest: fx.GraphModule  # what is affine, then what is fixed → the loss
    convolves: bool
    largest: int  # numbers in the largest tensor that depends on θ


def cut(loss: Callable[[Tensor, Batch], Tensor], theta: Tensor, batch: Batch, *, most: int) -> Cut:
    """Record a loss and cut the record.

    Args:
        loss: Of the flat parameters and a batch.
        theta: Any parameters, shape [n].
        batch: Of the form that the record will serve.
        most: Numbers that what is affine may hold; where it takes more, only θ itself is.

    Raises:
        BadModel: A tensor is changed in place, random numbers are drawn, or a shape depends on numbers.
        RuntimeError, TypeError, ...: What torch raises where it cannot record the loss.

    Cost:
        One evaluation, and some tenths of a millisecond for each operation.
    """
    items, structure = pytree.tree_flatten(batch)
    places = [index for index, leaf in enumerate(items) if isinstance(leaf, Tensor)]

    def plain(point: Tensor, *tensors: Tensor) -> Tensor:
        filled = list(items)
        for index, tensor in zip(places, tensors, strict=True):
            filled[index] = tensor
        return loss(point, pytree.tree_unflatten(filled, structure))

    record = _recorded(functionalize(plain), (theta, *leaves(batch)))
    for node in record.graph.nodes:
        _refuse(node)
    kinds = _kinds(record.graph)
    found = _cut(record, kinds, hoist=True)
    return found if _held(record.graph, kinds) <= most else _cut(record, kinds, hoist=False)


def together(rest: fx.GraphModule, moving: Sequence[Tensor], fixed: Sequence[Tensor]) -> Any:
    """The rest of a loss at several points at once, recorded.

    Args:
        rest: Of a ``Cut``.
        moving: What is affine, at each point: [points, ...].
        fixed: What is not.

    Raises:
        RuntimeError, TypeError, ...: What torch raises where it cannot do several at once.
    """
    dims = (*(0 for _ in moving), *(None for _ in fixed))
    return _polished(_recorded(vmap(rest, dims), (*moving, *fixed)), len(moving))


def _recorded(function: Callable[..., Tensor], given: tuple[Tensor, ...]) -> fx.GraphModule:
    recorder = _Recorder(given)
    with torch.no_grad(), recorder:
        result = function(*given)
    recorder.graph.output(recorder.node(result))
    recorder.graph.eliminate_dead_code()
    return fx.GraphModule(recorder.constants, recorder.graph)


class _Recorder(TorchDispatchMode):
    """Writes down what is done with some tensors; without the import and the work of torch's own, made for compilers."""

    def __init__(self, given: tuple[Tensor, ...]) -> None:
        super().__init__()
        self.graph, self.constants = fx.Graph(), nn.Module()
        self._nodes: dict[int, fx.Node] = {}
        self._alive: list[Tensor] = []  # so that no other tensor gets the same id
        for index, tensor in enumerate(given):
            self._know(tensor, self.graph.placeholder(f"given_{index}"))

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Torch's switch: to be told apart from what is compiled would take importing the compiler, for a second."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Do it, and write it down where one of these tensors is involved."""
        kwargs = kwargs or {}
        owner = self._nodes.get(id(args[0])) if args else None
        result = func(*args, **kwargs)
        if any(id(leaf) in self._nodes for leaf in pytree.tree_leaves((args, kwargs))):
            args, kwargs = pytree.tree_map_only(Tensor, self.node, (args, kwargs))
            if owner is not None and not any(map(_shares, (owner, *owner.users))):
                func = _returning(func)
            self._write(func, args, kwargs, result)
        return result

    def _write(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        node = self.graph.call_function(func, args, kwargs)
        if isinstance(result, Tensor):
            self._know(result, node)
        elif isinstance(result, (tuple, list)):
            for index, part in enumerate(cast("Sequence[Any]", result)):
                if isinstance(part, Tensor):
                    self._know(part, self.graph.call_function(operator.getitem, (node, index)))
        else:
            raise BadModel(f"what is done depends on numbers ({func})")

    def _know(self, tensor: Tensor, node: fx.Node) -> None:
        node.meta["val"] = torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
        node.meta["on"] = tensor.device.type
        self._nodes[id(tensor)] = node
        self._alive.append(tensor)

    def node(self, tensor: Tensor) -> fx.Node:
        """What stands for a tensor; one not seen before stays as it is."""
        if id(tensor) not in self._nodes:
            name = f"constant_{len(self._alive)}"
            setattr(self.constants, name, tensor)
            self._know(tensor, self.graph.create_node("get_attr", name))
        return self._nodes[id(tensor)]


def _shares(node: fx.Node) -> bool:
    """Whether a result is, or may be, in the memory of another."""
    schema = getattr(node.target, "_schema", None)
    if (
        schema is None or "unsafe" in schema.name
    ):  # an input, a part of several results; views that say they are none
        return True
    return any(each.alias_info is not None for each in schema.returns)


def _returning(func: Any) -> Any:
    """The operation that returns what this one writes into its first argument, or itself."""
    name = func._schema.name.removeprefix("aten::")
    packet = getattr(aten, name[:-1], None) if name.endswith("_") else None
    return getattr(packet, func._overloadname, func)


def _refuse(node: fx.Node) -> None:
    """Raise where a record would not do the same at other parameters."""
    schema = getattr(node.target, "_schema", None) if node.op == "call_function" else None
    if schema is None:
        return
    tags = cast("Any", node.target).tags
    if torch.Tag.nondeterministic_seeded in tags:
        raise BadModel(f"random numbers are drawn ({node.target})")
    if schema.is_mutable:
        raise BadModel(f"a tensor is changed in place ({node.target})")
    masks = any(
        _value(given).dtype == torch.bool for given in node.all_input_nodes if _is_tensor(given)
    )
    indexing = node.target is aten.index.Tensor
    if torch.Tag.dynamic_output_shape in tags and (masks or not indexing):
        raise BadModel(f"a shape depends on numbers ({node.target})")


def _kinds(graph: fx.Graph) -> dict[fx.Node, int]:
    """Which nodes do not depend on the parameters, which are affine in them, and which neither."""
    kinds: dict[fx.Node, int] = {}
    inputs = 0
    for node in graph.nodes:
        given = [kinds[each] for each in node.all_input_nodes]
        if node.op == "placeholder":
            kinds[node] = FIXED if inputs else AFFINE
            inputs += 1
        elif all(kind == FIXED for kind in given):
            kinds[node] = FIXED
        elif CURVED in given or node.op != "call_function":
            kinds[node] = CURVED
        else:
            kinds[node] = AFFINE if _keeps_affine(node, kinds) else CURVED
    return kinds


def _keeps_affine(node: fx.Node, kinds: dict[fx.Node, int]) -> bool:
    def moves(argument: Any) -> bool:
        return isinstance(argument, fx.Node) and kinds[argument] != FIXED

    if node.target in FACTORS:
        return not all(moves(node.args[at]) for at in FACTORS[node.target])
    if node.target is aten.div.Tensor:
        return not moves(node.args[1])
    return node.target in LINEAR or node.target in VIEWS


def _held(graph: fx.Graph, kinds: dict[fx.Node, int]) -> int:
    """Numbers in all results that are affine in the parameters."""
    kept = (node for node in graph.nodes if kinds[node] == AFFINE and node.target not in VIEWS)
    return sum(_value(node).numel() for node in kept if _is_tensor(node))


def _cut(record: fx.GraphModule, kinds: dict[fx.Node, int], *, hoist: bool) -> Cut:
    nodes = list(record.graph.nodes)
    inputs = [node for node in nodes if node.op == "placeholder"]
    if not hoist:
        kinds = {
            node: CURVED if kind == AFFINE and node is not inputs[0] else kind
            for node, kind in kinds.items()
        }
    again = [n for n in nodes if kinds[n] == CURVED or (kinds[n] == AFFINE and n.target in VIEWS)]
    wanted: set[fx.Node] = {nodes[-1], *nodes[-1].all_input_nodes}
    for node in reversed(again):
        if node in wanted:
            wanted.update(node.all_input_nodes)
    kept = [n for n in nodes[:-1] if n in wanted and n not in again]
    moving = [node for node in kept if kinds[node] == AFFINE]
    fixed = [node for node in kept if kinds[node] == FIXED]
    rest, after = fx.Graph(), dict[fx.Node, fx.Node]()
    for node in (*moving, *fixed):
        after[node] = rest.placeholder(node.name)
        after[node].meta = node.meta
    for node in again:
        if node in wanted and node.op != "output":
            after[node] = rest.node_copy(node, after.__getitem__)
    rest.output(after[cast("fx.Node", nodes[-1].args[0])])
    numbers = [_value(n).numel() for n in nodes if kinds[n] != FIXED and _is_tensor(n)]
    return Cut(
        _until(record, fixed),
        _until(record, moving),
        _polished(fx.GraphModule(record, rest), len(moving)),
        any(n.target is aten.convolution.default for n in nodes),
        max(numbers),
    )


def _until(record: fx.GraphModule, results: Sequence[fx.Node]) -> Callable[..., tuple[Tensor, ...]]:
    """The record as far as these results."""
    graph, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    for node in record.graph.nodes:
        if node.op != "output":
            copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(tuple(copies[node] for node in results))
    graph.eliminate_dead_code()
    return fx.GraphModule(record, graph).forward


def _polished(record: fx.GraphModule, moving: int) -> fx.GraphModule:
    """The same in forms that take other orders of memory, and that are fast on a CPU; the first inputs may be used up."""
    graph = record.graph
    usable = [node for node in graph.nodes if node.op == "placeholder"][:moving]
    for node in list(graph.nodes):
        if node.target in (aten.view.default, aten._unsafe_view.default):
            node.target = aten.reshape.default
        if node.target in SOFTMAXES:
            _turn(graph, node)
        if node.target is aten.max_pool2d_with_indices.default:
            _compare(graph, node)
        if node.target in WRITING:
            given = cast("fx.Node", node.args[0])
            if len(given.users) == 1 and (given in usable or not _shares(given)):
                node.target = WRITING[node.target]
    graph.eliminate_dead_code()
    record.recompile()
    return record


def _compare(graph: fx.Graph, node: fx.Node) -> None:
    """Pool by comparing shifted slices, rows and then columns: measured, in a fifth to a twentieth of the time."""
    defaults: tuple[Any, ...] = (None, None, None, (0, 0), (1, 1), False)
    given = cast("tuple[Any, ...]", node.args)
    images, kernel, strides, padding, dilation, ceil = (*given, *defaults[len(given) :])
    largest = [user for user in node.users if user.target is operator.getitem and user.args[1] == 0]
    plain = set(padding) == {0} and set(dilation) == {1} and not ceil
    if not plain or len(largest) != len(node.users) or largest[0].meta["on"] != "cpu":
        return
    shape, result = _value(largest[0]).shape, cast("fx.Node", images)
    with graph.inserting_before(node):
        for axis in (-2, -1):
            length, size, stride = shape[axis], kernel[axis], (strides or kernel)[axis]
            shifted = [
                graph.call_function(
                    aten.slice.Tensor,
                    (result, len(shape) + axis, at, at + stride * (length - 1) + 1, stride),
                )
                for at in range(size)
            ]
            result = shifted[0]
            for other in shifted[1:]:
                result = graph.call_function(aten.maximum.default, (result, other))
    for user in largest:
        user.replace_all_uses_with(result)
        graph.erase_node(user)
    graph.erase_node(node)


def _turn(graph: fx.Graph, node: fx.Node) -> None:
    """Give a softmax over short rows columns instead."""
    value, axis = _value(node), cast("int", node.args[1])
    last = value.ndim - 1
    if (
        node.meta["on"] != "cpu"
        or last < 1
        or axis % value.ndim != last
        or value.shape[-1] >= SHORT
    ):
        return
    with graph.inserting_before(node):
        columns = _columns(graph, cast("fx.Node", node.args[0]), last)
        turned = graph.call_function(cast("Any", node.target), (columns, last - 1, *node.args[2:]))
        rows = graph.call_function(aten.transpose.int, (turned, last - 1, last))
    node.replace_all_uses_with(rows)
    graph.erase_node(node)


def _columns(graph: fx.Graph, rows: fx.Node, last: int) -> fx.Node:
    """The transpose of the last two axes; of a linear layer, by multiplying the other way round instead of copying."""
    call = graph.call_function
    if rows.target is not aten.addmm.default or len(rows.users) > 1 or rows.kwargs:
        return call(aten.transpose.int, (rows, last - 1, last))
    bias, one, other = cast("tuple[fx.Node, ...]", rows.args)
    shift = (
        call(aten.unsqueeze.default, (bias, 1))
        if _value(bias).ndim == 1
        else call(aten.t.default, (bias,))
    )
    turned = (call(aten.t.default, (factor,)) for factor in (other, one))
    return call(aten.addmm.default, (shift, *turned))


def _is_tensor(node: fx.Node) -> bool:
    return isinstance(node.meta.get("val"), Tensor)


def _value(node: fx.Node) -> Tensor:
    return cast("Tensor", node.meta["val"])
