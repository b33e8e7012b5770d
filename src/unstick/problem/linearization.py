"""The gradient of a batch's loss, linearized: everything that does not depend on the direction is computed once.

Answers: which part of a Hessian product serves all directions, and what is left to do for each?
Does not answer: when that pays; ``hessian`` probes it.

The directional derivative of the gradient is recorded operation by operation, and the record is cut in two. Unlike
``torch.func.linearize``, which records the numbers of one point too, a record here serves all batches of one form.
"""

import operator
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, fx
from torch._guards import TracingContext, tracing
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import grad, jvp
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from unstick.errors import BadModel
from unstick.problem.batches import Batch, leaves

__all__ = ["Linearization", "form", "linearize"]

aten = torch.ops.aten

SAME = (aten.alias.default, aten.detach.default)
"""Operations that return what they are given."""

RESHAPING = (aten._to_copy.default, aten.expand.default, aten.clone.default, aten.view.default)
"""Operations that return what they are given where type, device, shape and strides stay the same."""


@dataclass(frozen=True, eq=False)
class Linearization:
    """The two halves of one batch's Hessian product."""

    ahead: Callable[..., tuple[Tensor, ...]]  # θ and the tensors of a batch → what is computed once
    along: Callable[..., Tensor]  # v and what was computed once → H v


def form(batch: Batch) -> Hashable:
    """What two batches must share for one record to serve both, or an object of its own where that is unclear."""
    items, structure = pytree.tree_flatten(batch)
    described = tuple(
        (leaf.shape, leaf.stride(), leaf.dtype, leaf.device)
        if isinstance(leaf, Tensor)
        else (type(leaf), leaf)
        for leaf in items
    )
    try:
        hash(described)
    except TypeError:
        return object()
    return str(structure), described


def linearize(
    loss: Callable[[Tensor, Batch], Tensor], theta: Tensor, batch: Batch
) -> Linearization:
    """Record the directional derivative of a loss's gradient, cut in two.

    Args:
        loss: Of the flat parameters and a batch.
        theta: Where, shape [n].
        batch: Of the form that the record will serve.

    Raises:
        BadModel: Random numbers are drawn on the way; a record would draw them anew.
        RuntimeError, TypeError, ...: What torch raises where it cannot transform or record the loss.

    Cost:
        One product by forward-over-reverse, and some tenths of a millisecond for each operation.

    References:
        Radul et al. (2022), You Only Linearize Once: the transposed program is not needed here.
    """
    items, structure = pytree.tree_flatten(batch)
    places = [index for index, leaf in enumerate(items) if isinstance(leaf, Tensor)]

    def product(point: Tensor, v: Tensor, *tensors: Tensor) -> Tensor:
        filled = list(items)
        for index, tensor in zip(places, tensors, strict=True):
            filled[index] = tensor
        same = pytree.tree_unflatten(filled, structure)
        return cast("Tensor", jvp(grad(lambda t: loss(t, same)), (point,), (v,))[1])

    with (
        torch.no_grad()
    ):  # what torch cannot do is refused here, where recording could crash the process
        product(theta, torch.ones_like(theta), *leaves(batch))
    # One mode for the shapes of all results: without it make_fx sets up one for each, which takes half of its time.
    with torch.no_grad(), tracing(TracingContext(FakeTensorMode())):
        record = make_fx(product)(theta, torch.ones_like(theta), *leaves(batch))
    _drop(record.graph, _same)
    _without_changes(record.graph)
    _drop(record.graph, _no_work)
    _join_convolutions(record.graph)
    return _cut(record)


def _without_changes(graph: fx.Graph) -> None:
    """Make operations that change a tensor in place return a new one, for all that come after.

    Raises:
        BadModel: The tensor shares its memory with another, or random numbers are drawn.
    """
    order = {node: index for index, node in enumerate(graph.nodes)}
    for node in list(graph.nodes):
        schema = _schema(node)
        if schema is None:
            continue
        operation = node.target
        if torch.Tag.nondeterministic_seeded in operation.tags:
            raise BadModel(f"random numbers are drawn ({operation})")
        if not schema.is_mutable:
            continue
        changed, instead = node.args[0], _returning(operation, schema)
        alone = isinstance(changed, fx.Node) and not any(map(_shares, [changed, *changed.users]))
        if instead is None or not alone:
            raise BadModel(f"a tensor is changed in place ({operation})")
        node.target = instead
        changed.replace_all_uses_with(node, lambda user, at=order[node]: order[user] > at)


def _schema(node: fx.Node) -> Any:
    """The signature of the operation that a node calls; None for other nodes."""
    return getattr(node.target, "_schema", None) if node.op == "call_function" else None


def _returning(operation: Any, schema: Any) -> Any:
    """The operation that returns what this one writes into its first argument; None where there is none."""
    name = schema.name.removeprefix("aten::")
    packet = getattr(aten, name[:-1], None) if name.endswith("_") else None
    return getattr(packet, str(operation).rpartition(".")[2], None)


def _shares(node: fx.Node) -> bool:
    """Whether a node's output is, or may be, in the memory of another tensor."""
    schema = _schema(node)
    if schema is None:  # an input, an attribute, or a part of several outputs
        return node.op != "output"
    return any(r.alias_info is not None and not r.alias_info.is_write for r in schema.returns)


def _drop(graph: fx.Graph, instead: Callable[[fx.Node], fx.Node | None]) -> None:
    """Leave out the nodes that equal another already."""
    for node in list(graph.nodes):
        if node.op == "call_function" and (other := instead(node)) is not None:
            node.replace_all_uses_with(other)
            graph.erase_node(node)
    graph.eliminate_dead_code()


def _same(node: fx.Node) -> fx.Node | None:
    return cast("fx.Node", node.args[0]) if node.target in SAME else None


def _no_work(node: fx.Node) -> fx.Node | None:
    """Copies, and sums with zero, that the rules of differentiation bring along."""
    if node.target in RESHAPING:
        given = cast("fx.Node", node.args[0])
        return given if _like(node) == _like(given) else None
    if node.target is aten.add.Tensor and len(node.args) == 2 and not node.kwargs:
        one, other = node.args
        for zero, rest in ((one, other), (other, one)):
            if not (isinstance(zero, fx.Node) and isinstance(rest, fx.Node)):
                continue
            if zero.target is aten.zeros_like.default and _like(rest) == _like(node):
                return rest
    return None


def _join_convolutions(graph: fx.Graph) -> None:
    """The product rule sends two gradients back through convolutions of one kind: once, with the channels of both.

    Measured on a CPU: 5.0 ms instead of 8.1 (500 images, 16 and 32 channels, kernels of 5 x 5).
    """
    for node in list(graph.nodes):
        if node.target is not aten.add.Tensor or len(node.args) != 2 or node.kwargs:
            continue
        one, other = (_sent_back(given) for given in node.args)
        if one is None or other is None or one is other:
            continue
        kind = one.args[4:]
        if other.args[4:] != kind or _like(node.args[0]) != _like(node.args[1]):
            continue
        with graph.inserting_before(node):
            gradients, weights = (
                graph.call_function(aten.cat.default, ([one.args[at], other.args[at]], axis))
                for at, axis in ((0, 1), (2, 0))
            )
            given = gradients, one.args[1], weights, None, *kind
            both = graph.call_function(aten.convolution_backward.default, given)
            total = graph.call_function(operator.getitem, (both, 0))
        node.replace_all_uses_with(total)
        graph.erase_node(node)
    graph.eliminate_dead_code()


def _sent_back(node: Any) -> fx.Node | None:
    """The ordinary convolution whose gradient by its input, asked for alone, a node is."""
    if not (isinstance(node, fx.Node) and node.target is operator.getitem and node.args[1] == 0):
        return None
    found = cast("fx.Node", node.args[0])
    if found.target is not aten.convolution_backward.default or len(node.users) > 1:
        return None
    transposed, _, groups, mask = found.args[7:11]
    plain = (
        not transposed and groups == 1 and list(cast("list[bool]", mask)) == [True, False, False]
    )
    return found if plain else None


def _like(node: fx.Node) -> Any:
    value = node.meta.get("val")
    if not isinstance(value, Tensor):
        return object()
    return value.shape, value.stride(), value.dtype, value.device


def _cut(record: fx.GraphModule) -> Linearization:
    """One graph for what does not depend on the direction, one for the rest."""
    inputs = [node for node in record.graph.nodes if node.op == "placeholder"]
    direction = inputs[1]
    depends = {direction}
    for node in record.graph.nodes:
        if any(given in depends for given in node.all_input_nodes):
            depends.add(node)
    needed: dict[fx.Node, None] = {}
    for node in record.graph.nodes:
        if node in depends:
            fixed = (given for given in node.all_input_nodes if given not in depends)
            needed.update(dict.fromkeys(given for given in fixed if given.op != "get_attr"))

    ahead, along = fx.Graph(), fx.Graph()
    before: dict[fx.Node, fx.Node] = {}
    after: dict[fx.Node, fx.Node] = {direction: along.placeholder("v")}
    for node in needed:
        after[node] = along.placeholder(node.name)
    for node in record.graph.nodes:
        if node.op == "output":
            result = node.args[0]
            zero = (aten.zeros_like.default, (after[direction],))
            along.output(after[result] if result in depends else along.call_function(*zero))
            continue
        if node.op == "get_attr":
            after[node] = along.node_copy(node)
        elif node in depends and node is not direction:
            after[node] = along.node_copy(node, after.__getitem__)
        if node not in depends:
            before[node] = ahead.node_copy(node, before.__getitem__)
        elif node is direction:
            before[node] = ahead.placeholder("unused")
    ahead.output(tuple(before[node] for node in needed))
    for graph in (ahead, along):
        graph.eliminate_dead_code()
    once, each = fx.GraphModule(record, ahead), fx.GraphModule(record, along)
    return Linearization(lambda theta, *tensors: once(theta, None, *tensors), each)
