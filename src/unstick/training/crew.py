"""Members of a population that are trained at once: every tensor has a row for each.

Answers: how is one update of all members computed together?
Does not answer: which members can be together, and what is told of them (``population``).

The gradient of one member is transformed for all and recorded operation by operation, once for each shape of batch: an
update runs that record, without the transformations, and one update rule.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf, isfinite
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch._guards import TracingContext, tracing
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call, grad_and_value, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from unstick.errors import BadModel
from unstick.problem.batches import Batch, leaves
from unstick.problem.guard import put_back_buffers, visiting
from unstick.problem.layout import layout_of
from unstick.problem.objective import BatchLoss
from unstick.record import number
from unstick.training.order import BatchOrder
from unstick.training.recipe import Recipe
from unstick.training.rules import Rule, Setting
from unstick.training.samples import Samples
from unstick.training.schedules import Pace
from unstick.training.stopping import DIVERGED, DONE, Watch

__all__ = ["CannotShare", "Crew", "Member"]

ALIKE = 1e-3
"""Relative difference of a member's first loss, computed alone and with the others, that shows another model."""


class CannotShare(Exception):
    """These members cannot be trained at once, and why."""


@dataclass(slots=True, eq=False)
class Member:
    """What one member has of its own."""

    place: int  # among the models
    model: nn.Module
    recipe: Recipe
    settings: dict[str, float]
    order: BatchOrder
    pace: Pace
    watch: Watch
    outcome: str | None = None
    done: int = 0  # updates, known once there is an outcome


class Crew:
    """Members in the same update.

    One that has ended stays in its row, unread, until half of the rows are such: then they are taken out.

    Args:
        members: Of one architecture; their models are read here and written when they end.
        samples: That all of them train on.
        objective: The loss of a batch.
        rule: Of the optimizer.
        updates: That each makes at most.

    Raises:
        CannotShare: Torch cannot transform or record the model's gradient.
    """

    def __init__(
        self,
        members: Sequence[Member],
        samples: Samples,
        objective: BatchLoss,
        *,
        rule: Rule,
        updates: int,
    ) -> None:
        self._samples, self._objective, self._rule = samples, objective, rule
        self._layout = layout_of(members[0].model)
        self._template = members[0].model
        self.members = tuple(members)
        self.updates, self.done = updates, 0
        first = members[0]
        self._whole, self._norms = first.order.whole, first.recipe.norms
        self._batches, self._size = first.order.batches, first.order.batch_size
        self._last_size = first.order.last_size
        dtype = self._layout.dtype
        self._theta = torch.stack([layout_of(m.model).read(dtype) for m in members])
        self._memory = {name: torch.zeros_like(self._theta) for name in rule.memory}
        self._buffers = _stacked([dict(m.model.named_buffers()) for m in members])
        trained = set(self._layout.names)
        self._frozen = _stacked(
            [{n: p for n, p in m.model.named_parameters() if n not in trained} for m in members]
        )
        self._records: dict[Any, _Record] = {}
        self._sums = torch.zeros(len(members), dtype=torch.float64)
        self._seen = 0
        # what was seen, with a column for each member
        self.losses = torch.full((updates, len(members)), torch.nan, dtype=torch.float64)
        self.rates = torch.zeros_like(self.losses)
        self.gradient_norms = torch.zeros_like(self.losses) if self._norms else None
        self.update_norms = torch.zeros_like(self.losses) if self._norms else None
        self.seconds = torch.zeros(updates, dtype=torch.float64)
        self._columns = {member.place: column for column, member in enumerate(members)}
        self._take_rows(list(members))

    @property
    def bytes(self) -> int:
        """At most so many are held during an update."""
        held = [*[self._theta] * 3, *self._memory.values(), *self._buffers.values()]
        held += self._frozen.values()
        if self._norms:
            held.append(self._theta)
        batch = self._first_batch()
        return sum(tensor.nbytes for tensor in held) + self._recorded(batch).bytes

    @property
    def over(self) -> bool:
        """Whether nobody goes on."""
        return self.done == self.updates or not len(self._live)

    def record_shapes(self) -> None:
        """Record an update for every shape of batch there will be, so that one that cannot be is known beforehand.

        Raises:
            CannotShare: Torch cannot transform or record the model's gradient.
        """
        self._recorded(self._first_batch())
        if self._last_size < self._size and self.updates >= self._batches:
            self._recorded(self._first_batch(self._last_size))

    def check_alike(self) -> None:
        """Compare each member's first loss, computed alone, with that of its row.

        Raises:
            BadModel: They differ: a member is another model than the first.
        """
        batch = self._first_batch()
        _, values, _ = self._recorded(batch).run(self._theta, self._buffers, self._frozen, batch)
        for row, member in enumerate(self.members):
            mine = batch if self._whole else _row_of(batch, row)
            model = member.model
            with visiting(model, training=True), put_back_buffers(model), torch.no_grad():
                alone = float(self._objective(model, mine))
            found = float(values[row])
            if isfinite(alone) and not abs(found - alone) <= ALIKE * max(abs(alone), ALIKE):
                raise BadModel(
                    f"model {member.place} has loss {number(alone)} alone and {number(found)} with the parts of model "
                    f"{self.members[0].place}; expected models that differ in nothing but parameters"
                )

    def update(self) -> None:
        """One update of every member."""
        begin = time.perf_counter()
        batch, size = self._next_batch()
        record = self._recorded(batch)
        g, values, buffers = record.run(self._theta, self._buffers, self._frozen, batch)
        told = values.double().cpu()
        self.losses[self.done].index_copy_(0, self._places, told)
        live = told.index_select(0, self._live)
        if not isfinite(float(live.sum())):
            for row, value in zip(self._live.tolist(), live.tolist(), strict=True):
                if not isfinite(value):
                    self._end(row, DIVERGED, self.done + 1)
        self._set_rates()
        self._move(g)
        self._buffers = buffers
        self._sums += told * size
        self._seen += size
        self.done += 1
        for pace in self._paces:
            if not pace.constant:
                pace.advance()
        self.seconds[self.done - 1] = (time.perf_counter() - begin) / len(self._rows)
        if self.done % self._batches == 0:
            self._end_of_epoch()
        if self.done == self.updates:
            for row in self._live.tolist():
                self._end(row, DONE, self.done)
        elif 0 < 2 * len(self._live) <= len(self._rows):
            self._take_out()

    def end(self, outcome: str) -> None:
        """End everybody who goes on, here."""
        for row in self._live.tolist():
            self._end(row, outcome, self.done)

    def _move(self, g: Tensor) -> None:
        theta, settings = self._theta, self._settings
        before = theta.clone() if self._norms else None
        norms = None
        if self._norms or self._limits is not None:
            norms = torch.linalg.vector_norm(g, dim=1)
        if norms is not None and self._limits is not None:  # as torch's clip_grad_norm_
            g = g * (self._limits / (norms + 1e-6)).clamp(max=1.0).unsqueeze(1)
        decay = settings["weight_decay"]
        if not self._rule.decoupled and (isinstance(decay, Tensor) or decay):
            g = g + decay * theta
        self._rule.step(theta, g, self._memory, settings, self.done)
        if before is not None and norms is not None:
            assert self.gradient_norms is not None
            assert self.update_norms is not None
            moved = torch.linalg.vector_norm(theta - before, dim=1)
            for table, numbers in ((self.gradient_norms, norms), (self.update_norms, moved)):
                table[self.done].index_copy_(0, self._places, numbers.double().cpu())

    def _set_rates(self) -> None:
        multipliers = [pace.multiplier for pace in self._paces]
        if multipliers != self._multipliers:
            self._multipliers = multipliers
            self._now = self._bases * torch.tensor(multipliers, dtype=torch.float64)[self._of]
            self._settings["lr"] = self._column(self._now)
        self.rates[self.done].index_copy_(0, self._places, self._now)

    def _end_of_epoch(self) -> None:
        means = (self._sums / self._seen).tolist()
        self._sums.zero_()
        self._seen = 0
        for row in self._live.tolist():
            member = self._rows[row]
            member.pace.after_epoch(means[row])
            outcome = member.watch.after_epoch(means[row])
            if outcome is not None:
                self._end(row, outcome, self.done)

    def _end(self, row: int, outcome: str, done: int) -> None:
        member = self._rows[row]
        member.outcome, member.done = outcome, done
        layout_of(member.model).write(self._theta[row])
        with torch.no_grad():
            for name, buffer in member.model.named_buffers():
                buffer.copy_(self._buffers[name][row])
        self._live = self._live[self._live != row]

    def _take_out(self) -> None:
        """Go on with the rows of those who go on."""
        stay = self._live
        for tensors in (self._memory, self._buffers, self._frozen):
            for name, tensor in tensors.items():
                tensors[name] = tensor[stay.to(tensor.device)]
        self._theta = self._theta[stay.to(self._theta.device)]
        self._sums = self._sums[stay]
        epoch = self._epoch
        self._take_rows([self._rows[row] for row in stay.tolist()])
        self._epoch = None if epoch is None else epoch[stay]

    def _take_rows(self, rows: list[Member]) -> None:
        self._rows = rows
        self._live = torch.arange(len(rows))
        self._places = torch.tensor([self._columns[m.place] for m in rows])
        self._epoch: Tensor | None = None
        # members whose schedules are equal share one, unless it listens to their losses
        shared: dict[Any, Pace] = {}
        for member in rows:
            recipe = member.recipe
            own = member.place if recipe.schedule == "plateau" else None
            key = (own, recipe.schedule, recipe.warmup, recipe.warmup_from, recipe.every)
            member.pace = shared.setdefault((*key, recipe.factor, recipe.floor), member.pace)
        self._paces = list(shared.values())
        at = {id(pace): index for index, pace in enumerate(self._paces)}
        self._of = torch.tensor([at[id(m.pace)] for m in rows])
        self._multipliers: list[float] = []
        self._bases = torch.tensor([m.settings["lr"] for m in rows], dtype=torch.float64)
        self._now = self._bases
        self._settings: dict[str, Setting] = {
            name: self._column(torch.tensor([m.settings[name] for m in rows], dtype=torch.float64))
            for name in rows[0].settings
        }
        limits = [inf if m.recipe.clip_norm is None else m.recipe.clip_norm for m in rows]
        self._limits = (
            None
            if min(limits) == inf
            else torch.tensor(limits, dtype=torch.float64).to(self._theta)
        )

    def _column(self, numbers: Tensor) -> Setting:
        """One number where all rows agree, else a column that broadcasts over the parameters."""
        if bool((numbers == numbers[0]).all()):
            return float(numbers[0])
        return numbers.to(self._theta).unsqueeze(1)

    def _next_batch(self) -> tuple[Batch, int]:
        """The next batch of every member, with a leading axis for members, and its size."""
        samples = self._samples
        if self._whole:
            return samples.batch, samples.count
        at = self.done % self._batches
        if at == 0 or self._epoch is None:
            self._epoch = torch.stack([member.order.next_epoch() for member in self._rows])
        rows = self._epoch[:, at * self._size : (at + 1) * self._size]
        return self._taken(rows), rows.shape[1]

    def _first_batch(self, size: int | None = None) -> Batch:
        """A batch of each member such as the first, without moving their orders; or of another size."""
        if self._whole:
            return self._samples.batch
        return self._taken(torch.arange(size or self._size).expand(len(self._rows), -1))

    def _taken(self, rows: Tensor) -> Batch:
        flat = rows.reshape(-1).to(self._samples.device)

        def taken(leaf: Tensor) -> Tensor:
            return leaf.index_select(0, flat).view(*rows.shape, *leaf.shape[1:])

        return pytree.tree_map_only(Tensor, taken, self._samples.batch)

    def _recorded(self, batch: Batch) -> "_Record":
        key = (len(self._rows), *(leaf.shape for leaf in leaves(batch)))
        if key not in self._records:
            try:
                self._records[key] = self._record(batch)
            except (RuntimeError, NotImplementedError, TypeError, ValueError) as error:
                said = " ".join(str(error).split())[:160]
                raise CannotShare(f"torch cannot compute their gradients at once: {said}") from None
        return self._records[key]

    def _record(self, batch: Batch) -> "_Record":
        whole = _Whole(self._template, self._objective)
        layout = self._layout

        def loss_of(theta: Tensor, buffers: Any, frozen: Any, one: Batch) -> tuple[Tensor, Any]:
            fresh = {name: buffer.clone() for name, buffer in buffers.items()}  # moved in place
            state = {**layout.named(theta), **fresh, **frozen}
            given = {f"model.{name}": tensor for name, tensor in state.items()}
            return functional_call(whole, given, (one,)), fresh

        share = None if self._whole else 0
        each = vmap(
            grad_and_value(loss_of, has_aux=True), in_dims=(0, 0, 0, share), randomness="error"
        )

        def everybody(theta: Tensor, buffers: Any, frozen: Any, one: Batch) -> Any:
            g, (values, fresh) = each(theta, buffers, frozen, one)
            return g, values, fresh

        with (
            visiting(self._template, training=True),
            torch.no_grad(),
            tracing(TracingContext(FakeTensorMode())),
        ):
            graph = make_fx(everybody)(self._theta, self._buffers, self._frozen, batch)
        graph.graph.eliminate_dead_code()
        graph.recompile()
        values = (node.meta.get("val") for node in graph.graph.nodes if node.op == "call_function")
        computed = sum(value.nbytes for value in values if isinstance(value, Tensor))
        given = sum(leaf.nbytes for leaf in leaves(batch))
        return _Record(cast("Any", graph), computed + given)


@dataclass(frozen=True, slots=True)
class _Record:
    run: Callable[..., tuple[Tensor, Tensor, dict[str, Tensor]]]
    bytes: int  # of the batch and all that is computed from it, though not all is held at once


class _Whole(nn.Module):
    """Model and loss in one module, so that other parameters reach the model inside any loss."""

    def __init__(self, model: nn.Module, objective: BatchLoss) -> None:
        super().__init__()
        self.model = model
        self._objective = objective

    def forward(self, batch: Batch) -> Tensor:
        return self._objective(self.model, batch)


def _stacked(named: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    return {name: torch.stack([each[name].detach() for each in named]) for name in named[0]}


def _row_of(batch: Batch, row: int) -> Batch:
    return pytree.tree_map_only(Tensor, lambda leaf: leaf[row], batch)
