"""Many models of one architecture, trained at once.

Answers: what becomes of K models under K recipes, as if each were trained alone?
Does not answer: one model (``loop``); how an update of all is computed (``crew``); which of them is best.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from statistics import median
from typing import Any

from torch import Tensor, nn

from unstick.errors import BadModel, BadRecipe
from unstick.problem.cost import Cost
from unstick.problem.layout import layout_of
from unstick.problem.objective import BatchLoss
from unstick.record import Fact, Record, number
from unstick.trace import RunTrace
from unstick.training.crew import CannotShare, Crew, Member
from unstick.training.loop import Progress, Trained, train
from unstick.training.optimizers import kind_of, settings_of
from unstick.training.recipe import Recipe
from unstick.training.rules import RULES
from unstick.training.samples import Samples, evaluate, loss_of_batches
from unstick.training.stopping import DIVERGED, DONE, INTERRUPTED, Watch, interruptible

__all__ = ["Population", "train_population"]

MEMORY = 2 * 2**30
"""Bytes that members trained at once may take, unless the caller says otherwise."""

SHARED = ("optimizer", "batch_size", "drop_last", "epochs", "updates", "budget", "norms")
"""Settings that members trained at once share; members that differ in them are trained one group after the other."""

TELL_EVERY = 16  # updates between two words on progress


@dataclass(frozen=True, slots=True, eq=False)
class Population(Record):
    """Members in the order in which they were given; each model holds the parameters it ended with."""

    members: tuple[Trained, ...]
    together: int  # members that were trained at once with others
    cost: Cost
    notes: tuple[str, ...] = ()

    @property
    def outcome(self) -> str:
        """How it ended: "interrupted" if for one member, else "done"."""
        return INTERRUPTED if any(m.outcome == INTERRUPTED for m in self.members) else DONE

    def headline(self) -> str:
        """How many, and how far they came."""
        final = sorted(loss for m in self.members if (loss := _reached(m)) is not None)
        lost = len(self.members) - len(final)
        if not final:
            return f"{len(self.members)} models trained: none has a finite loss."
        return (
            f"{len(self.members)} models trained: loss {number(final[0])} to {number(final[-1])}, "
            f"median {number(median(final))}{f'; {lost} diverged' if lost else ''}."
        )

    def facts(self) -> list[Fact]:
        """The best, how they ended, what it took."""
        facts: list[Fact] = []
        losses = [
            (loss, k) for k, m in enumerate(self.members) if (loss := _reached(m)) is not None
        ]
        if losses:
            loss, k = min(losses)
            facts.append(("lowest", f"member {k}: {self.members[k].recipe}: loss {number(loss)}"))
        scores = [(s.loss, k, s) for k, m in enumerate(self.members) if (s := m.last()) is not None]
        if scores:
            _, k, score = min(scores, key=lambda known: known[:2])
            facts.append((f"best {score.split}", f"member {k}: {score}"))
        outcomes = [member.outcome for member in self.members]
        told = ", ".join(f"{outcomes.count(each)} {each}" for each in dict.fromkeys(outcomes))
        facts += [("ended", told), ("at once", f"{self.together} of {len(self.members)}")]
        return [*facts, ("took", str(self.cost)), *(("note", note) for note in self.notes)]


def train_population(
    models: Sequence[nn.Module],
    data: Any,
    loss: Callable[[Tensor, Tensor], Tensor] | None = None,
    recipes: Sequence[Recipe] | Recipe | None = None,
    *,
    batch_loss: BatchLoss | None = None,
    validation: Any = None,
    memory: int = MEMORY,
    progress: Progress | None = None,
) -> Population:
    """Train every model under its own recipe, in place; those that fit together are trained at once.

    The numbers are those of ``train`` on each model alone, to rounding. Members may differ in seed, learning rate and
    every other number of the optimizer and the schedule. Where they differ in optimizer, batch size or length, each kind
    is trained after the other. Where the optimizer looks at whole layers, the model draws random numbers, or torch cannot
    transform it, each member is trained alone, and a note says so. A member whose loss is not finite is put aside with
    the parameters it had; the others do not notice.

    Args:
        models: Of one architecture, differing in their parameters only.
        data: As for ``train``, the same for all; each member has its own order of batches.
        loss: ``loss(model(inputs), targets)`` → mean over the batch.
        recipes: One for each model, or one for all.
        batch_loss: Instead of ``loss``: ``batch_loss(model, batch)`` → scalar.
        validation: Data that each model is evaluated on at the end.
        memory: Bytes that members trained at once may take; where more are needed, they take turns.
        progress: Told how many updates are done.

    Returns:
        A ``Trained`` for every model, in order. Seconds are those of all members at once, divided by their number.

    Raises:
        BadRecipe: Not one recipe a model, or settings out of range.
        BadModel: Members trained at once are not of one architecture; says in what they differ.

    Cost:
        A gradient an epoch and member. For small models on small batches most of the time of training one is overhead,
        which members trained at once share; recording takes some tenths of a second for each shape of batch.

    Example:
        >>> import torch
        >>> from unstick.training.recipe import vary
        >>> x = torch.linspace(-1, 1, 32).reshape(-1, 1)
        >>> models = [nn.Linear(1, 1) for _ in range(3)]
        >>> rates = vary(Recipe(epochs=50), lr=(0.1, 0.5, 1e30))
        >>> told = train_population(models, (x, 3 * x), nn.MSELoss(), rates)
        >>> [member.outcome for member in told.members], told.together
        (['done', 'done', 'diverged'], 3)
    """
    chosen = [recipes or Recipe()] * len(models) if not isinstance(recipes, Sequence) else recipes
    if not models or len(chosen) != len(models):
        raise BadRecipe(
            f"{len(models)} models and {len(chosen)} recipes; expected at least one model, and one recipe for each or for all"
        )
    if len({id(model) for model in models}) < len(models):
        raise BadModel("a model is given twice; expected one of its own for every member")
    begin = time.perf_counter()
    samples = data if isinstance(data, Samples) else Samples(data, models[0])
    everybody = [_member(k, models[k], chosen[k], samples.count) for k in range(len(models))]
    told: dict[int, Trained] = {}
    notes: list[str] = []
    together = 0
    for places in _kinds(chosen):
        members = [everybody[k] for k in places]
        try:
            crews = _crews(members, samples, loss_of_batches(loss, batch_loss), memory, notes)
        except CannotShare as reason:
            if len(members) > 1:
                notes.append(f"{len(members)} members were trained one after the other: {reason}")
            for k in places:
                told[k] = train(
                    models[k], samples, loss, chosen[k], batch_loss=batch_loss, progress=progress
                )
            continue
        _run(crews, progress)
        together += len(members) if len(members) > 1 else 0
        told.update((m.place, _trained(m, crew)) for crew in crews for m in crew.members)
    if validation is not None:
        unseen = Samples(validation, models[0])
        for k, member in told.items():
            if member.outcome != DIVERGED:
                done = len(member.trace.loss)
                score = evaluate(models[k], unseen, loss, batch_loss=batch_loss, update=done)
                told[k] = replace(member, scores=(score,))
    every = tuple(told[k] for k in range(len(models)))
    spent = sum((member.cost for member in every), Cost())
    cost = replace(spent, seconds=time.perf_counter() - begin)
    return Population(every, together, cost, tuple(dict.fromkeys(notes)))


def _kinds(recipes: Sequence[Recipe]) -> list[list[int]]:
    """Members by what they must share, in the order of their first."""
    groups: dict[tuple[Any, ...], list[int]] = {}
    for index, recipe in enumerate(recipes):
        groups.setdefault(tuple(getattr(recipe, name) for name in SHARED), []).append(index)
    return list(groups.values())


def _member(place: int, model: nn.Module, recipe: Recipe, samples: int) -> Member:
    return Member(
        place,
        model,
        recipe,
        settings_of(recipe, samples=samples),
        recipe.order(samples),
        recipe.pace(recipe.updates_for(samples)),
        Watch(recipe),
    )


def _crews(
    members: Sequence[Member],
    samples: Samples,
    objective: BatchLoss,
    memory: int,
    notes: list[str],
) -> list[Crew]:
    """Members that are trained at once, in as many turns as the memory asks for.

    Raises:
        CannotShare: They cannot be.
        BadModel: They are not of one architecture.
    """
    recipe = members[0].recipe
    kind = kind_of(recipe)
    if kind.rule is None:
        raise CannotShare(f"{recipe.optimizer} does not treat each parameter alone")
    if any(member.recipe.average_from is not None for member in members):
        raise CannotShare("parameters are averaged on the way")
    _check_shapes(members)
    rule, updates = RULES[kind.rule], recipe.updates_for(samples.count)

    def crew(some: Sequence[Member]) -> Crew:
        return Crew(some, samples, objective, rule=rule, updates=updates)

    each = crew(members[:1]).bytes
    size = max(1, memory // max(1, each))
    if size < len(members):
        notes.append(
            f"{len(members)} members take turns, at most {size} at once: one takes {each / 2**20:.3g} MiB of the "
            f"{memory / 2**20:.4g} there are"
        )
    crews = [crew(members[at : at + size]) for at in range(0, len(members), size)]
    for one in crews:
        one.record_shapes()
        one.check_alike()
    return crews


def _run(crews: Sequence[Crew], progress: Progress | None) -> None:
    total = sum(crew.updates for crew in crews)
    before = 0
    with interruptible() as interrupt:
        for crew in crews:
            while not crew.over and not interrupt.asked:
                if progress is not None and crew.done % TELL_EVERY == 0:
                    progress("updates", before + crew.done, total)
                crew.update()
            crew.end(INTERRUPTED if crew.done < crew.updates else DONE)
            before += crew.updates


def _trained(member: Member, crew: Crew) -> Trained:
    """What is told of one member."""
    done, order = member.done, member.order
    column = [other.place for other in crew.members].index(member.place)
    count = order.samples
    sizes: list[int | None] = [
        order.last_size if (update + 1) % order.batches == 0 else order.batch_size
        for update in range(done)
    ]

    def listed(table: Tensor | None) -> list[float | None]:
        return [None] * done if table is None else table[:done, column].tolist()

    seconds: list[float | None] = crew.seconds[:done].tolist()
    trace = RunTrace(
        updates=list(range(1, done + 1)),
        loss=crew.losses[:done, column].tolist(),
        learning_rate=listed(crew.rates),
        batch_size=sizes,
        seconds=seconds,
        gradient_norm=listed(crew.gradient_norms),
        update_norm=listed(crew.update_norms),
    )
    used = sum(size or 0 for size in sizes)
    return Trained(
        outcome=member.outcome or INTERRUPTED,
        recipe=member.recipe,
        trace=trace,
        scores=(),
        epochs=used / count,
        samples=count,
        parameters=layout_of(member.model).n,
        cost=Cost(used, used / count, sum(s or 0.0 for s in seconds)),
    )


def _check_shapes(members: Sequence[Member]) -> None:
    first = members[0]
    own = _described(first.model)
    for member in members[1:]:
        other = _described(member.model)
        differ = [name for name in {**own, **other} if own.get(name) != other.get(name)]
        if differ:
            raise BadModel(
                f"model {member.place} differs from model {first.place} in {', '.join(differ[:4])}; expected models that "
                "differ in nothing but parameters"
            )


def _described(model: nn.Module) -> dict[str, Any]:
    trained = set(layout_of(model).names)
    return {n: (v.shape, v.dtype, n in trained) for n, v in model.state_dict().items()}


def _reached(member: Trained) -> float | None:
    """The loss at the end, where it is one."""
    loss = member.final_loss
    return loss if member.outcome != DIVERGED and loss is not None and isfinite(loss) else None
