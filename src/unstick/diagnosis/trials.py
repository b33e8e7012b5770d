"""Remedies tried from the very checkpoint, beside going on unchanged, at equal cost.

Answers: which remedy lowers the loss, in the median seed, by more than going on differs between seeds?
Does not answer: which to try (``choosing``); where training ends after as long again.

All remedies get a quarter of the length on three seeds; the best third goes on to half of it, and the best two to the
whole: successive halving (Jamieson, Talwalkar 2016). Two that help and change different things are joined in the second
round.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median, pstdev
from typing import Final, TypeVar

from unstick.critical.curvature import Progress
from unstick.diagnosis.bench import Bench
from unstick.diagnosis.choosing import Choice
from unstick.diagnosis.copies import Copy
from unstick.diagnosis.remedies import Remedy
from unstick.diagnosis.surgery import NotPossible
from unstick.errors import UnstickError
from unstick.problem.cost import NOTHING, Cost
from unstick.record import Fact, Record, number

__all__ = ["SEEDS", "Tested", "Trial", "TrialPlan", "plan_trials", "run_trials"]

SEEDS = 3
ROUNDS: Final = (1 / 4, 1 / 2, 1.0)
"""Lengths of the rounds, as parts of the whole."""

FINALISTS = 2
JOINED = 2
"""Joined remedies that enter the second round, at most."""

LEAST_UPDATES = 4  # of the first round
POINTS = 40  # of a curve
MATTERS = 0.01
"""Part of what is left that a remedy must gain over going on, where that is the same on every seed."""

RESERVE = 0.98
"""Part of the budget that is planned with: updates and batches come in whole numbers."""

SIMPLER = 0.05
"""Part of the gain that a remedy may be behind the best and still comes first, if it changes less or goes with the cause."""

UNKNOWN_UPDATES = 200  # of a run without history
UPDATES = 60_000
"""Updates of all copies together, at most: on batches of few samples gradients pay for more than anyone waits for."""

Told = TypeVar("Told")
FAILURES = (UnstickError, RuntimeError, ValueError, TypeError, IndexError, AttributeError)


@dataclass(frozen=True, slots=True, eq=False)
class Trial(Record):
    """One remedy, tried on copies."""

    remedy: str
    about: str  # what it changes
    loss_before: float  # of all data, as the rest here: without weight decay
    losses_after: tuple[float, ...]  # one a seed; nan where it blew up
    continue_losses: tuple[float, ...]  # of copies that went on unchanged, at the same cost
    helped: bool  # the median is lower than every one of those, and than theirs by more than they deviate
    cost: Cost
    code: str  # the same for one's own model and optimizer
    keeps_weights: bool  # what was learned stays
    keeps_model: bool  # a checkpoint still fits the model as it was written
    gradients: float  # of each copy
    updates: int
    curve: tuple[tuple[float, ...], ...]  # means of batch losses on the way, one row a seed
    continue_curve: tuple[tuple[float, ...], ...]
    key: str  # what ``treat`` makes it again from
    seeds: tuple[int, ...]
    outcome: str  # "complete", "dropped" after an earlier round, or "interrupted"

    @property
    def loss_after(self) -> float:
        """The median of the seeds; inf where most blew up."""
        return _middle(self.losses_after)

    @property
    def loss_unchanged(self) -> float:
        """The median of those that went on; inf where most blew up."""
        return _middle(self.continue_losses)

    def headline(self) -> str:
        """What became of it."""
        went_on = _told(self.continue_losses)
        verb = "helped" if self.helped else "did not help"
        return f"{self.remedy} {verb}: loss {number(self.loss_before)} → {_told(self.losses_after)}; unchanged {went_on}."

    def facts(self) -> list[Fact]:
        """What it changes, its losses, its price and its code."""
        return [
            ("changes", f"{self.about}; {'keeps' if self.keeps_weights else 'loses'} what was learned"),
            ("losses", ", ".join(number(loss) for loss in self.losses_after)),
            ("unchanged", ", ".join(number(loss) for loss in self.continue_losses)),
            ("length", f"{self.updates:,} updates, {number(self.gradients)} gradients each; {self.outcome}"),
            ("cost", str(self.cost)),
            ("code", self.code),
        ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class TrialPlan:
    """What trials will take at most."""

    remedies: int
    gradients: float  # of everything
    each: float  # gradients of a finalist; more where others turn out cheaper
    length: float  # of the run so far; nothing is trained for longer

    def __str__(self) -> str:
        """For people, before it begins."""
        return (
            f"{self.remedies} remedies are tried beside going on, each on {SEEDS} seeds, for at most {self.gradients:.0f} "
            f"gradients; the best two for {number(self.each, 3)} gradients or more each"
        )


@dataclass(frozen=True, slots=True)
class Tested:
    """What was tried, best first, and what was not."""

    trials: tuple[Trial, ...]
    skipped: tuple[tuple[str, str], ...]
    plan: TrialPlan | None
    outcome: str  # "complete" or "interrupted"
    cost: Cost = NOTHING  # of all, going on and what failed included


def plan_trials(
    bench: Bench, remedies: Sequence[Remedy], *, updates: int | None, budget: float
) -> TrialPlan:
    """How long copies can be trained on.

    Args:
        bench: Of the run.
        remedies: That are tried.
        updates: Of the run so far; None where that is not known.
        budget: In gradients, of everything.
    """
    count = len(remedies)
    one = bench.batch_size / max(1, bench.samples)  # gradients of an update
    length = (updates or UNKNOWN_UPDATES) * one
    kept = _kept(count) + JOINED
    values = (1 + count + 1 + kept + JOINED + 1 + FINALISTS) / 3
    prices = [remedy.price for remedy in remedies]
    apart = 2 + SEEDS * (values + sum(prices) + JOINED * max(prices, default=0.0))
    shares = SEEDS * _copies(count)
    least = LEAST_UPDATES * one / ROUNDS[0]
    each = min(length, (RESERVE * budget - apart) / shares, UPDATES * one / shares)
    each = max(each, min(least, length))
    return TrialPlan(count, each * shares + apart, each, length)


def _copies(remedies: int) -> float:
    """Whole lengths that the copies of one seed are trained for, going on included."""
    first, second, _ = ROUNDS
    kept = _kept(remedies) + JOINED
    return (
        (remedies + 1) * first
        + (kept + 1) * (second - first)
        + JOINED * first
        + (FINALISTS + 1) * (1 - second)
    )


def _kept(remedies: int) -> int:
    return max(FINALISTS, math.ceil(remedies / 3))


def run_trials(
    bench: Bench,
    choice: Choice,
    *,
    plan: TrialPlan,
    left: float,
    seed: int,
    progress: Progress | None = None,
) -> Tested:
    """Try remedies.

    Args:
        bench: Of the run.
        choice: What to try.
        plan: How long.
        left: What is left of the loss: loss − lowest possible.
        seed: The first of the seeds.
        progress: Called with (stage, done, total).

    Cost:
        As planned, and a loss for each copy and round.
    """
    begin = bench.problem.spent
    arena = _Arena(bench, plan, left, seed, progress)
    skipped = dict(choice.skipped)
    outcome = "complete"
    try:
        if why := arena.enter(Remedy("continue", "nothing", "step", lambda _: None, "")):
            skipped["every remedy"] = f"going on unchanged, which they stand beside, {why}"
            return Tested((), tuple(skipped.items()), plan, outcome, bench.problem.spent - begin)
        for remedy in choice.remedies:
            if why := arena.enter(remedy):
                skipped[remedy.name] = why
        arena.round(1, _kept(len(choice.remedies)))
        for joined in arena.joined():
            arena.enter(joined, upto=1)
        arena.round(2, FINALISTS)
    except KeyboardInterrupt:
        outcome = "interrupted"
    cost = bench.problem.spent - begin
    return Tested(arena.trials(outcome), tuple(skipped.items()), plan, outcome, cost)


class _Entry:
    """One remedy and its copies."""

    def __init__(self, remedy: Remedy, copies: list[Copy]) -> None:
        self.remedy, self.copies = remedy, copies
        self.losses: dict[int, tuple[float, ...]] = {}  # by round
        self.cost = Cost()

    @property
    def last(self) -> int:
        return max(self.losses, default=-1)

    @property
    def score(self) -> float:
        return _middle(self.losses[self.last]) if self.losses else math.inf


class _Arena:
    """Remedies beside going on."""

    def __init__(
        self, bench: Bench, plan: TrialPlan, left: float, seed: int, progress: Progress | None
    ) -> None:
        self._bench, self._plan, self._left = bench, plan, left
        self._seeds = tuple(range(seed, seed + SEEDS))
        self._progress = progress
        self._entries: list[_Entry] = []
        self._noiseless = False
        self._lengths = [
            plan.each * part for part in ROUNDS
        ]  # gradients of a copy after each round
        self._begin = bench.problem.spent
        self._before = bench.loss_of(bench.objective)

    def enter(self, remedy: Remedy, *, upto: int = 0) -> str:
        """Make and train the copies of a remedy up to a round; says why not where that fails."""
        begin = self._bench.problem.spent
        seeds = self._seeds
        if self._noiseless and not remedy.random:
            seeds = seeds[:1]  # the others would be the same
        try:
            copies = [Copy(self._bench, seed) for seed in seeds]
            for copy in copies:
                remedy.change(copy)
            entry = _Entry(remedy, copies)
            self._train(entry, upto)
        except NotPossible as why:
            return str(why)
        except FAILURES as error:
            return f"it fails: {' '.join(str(error).split())[:160]}"
        entry.cost += self._bench.problem.spent - begin
        if not self._entries:
            traces = {tuple(copy.losses) for copy in copies}
            self._noiseless = len(traces) == 1
        self._entries.append(entry)
        return ""

    def round(self, number: int, keep: int) -> None:
        """Train the best of the last round on to this one; the last takes what is left of the plan."""
        unchanged, *others = self._entries
        ranked = sorted((e for e in others if e.last == number - 1), key=lambda e: e.score)
        stay = [unchanged, *ranked[:keep]]
        if number == len(ROUNDS) - 1:
            self._lengthen(stay)
        for entry in stay:
            begin = self._bench.problem.spent
            try:
                self._train(entry, number)
            except FAILURES:
                if entry is unchanged:
                    raise
            entry.cost += self._bench.problem.spent - begin

    def _lengthen(self, stay: Sequence[_Entry]) -> None:
        copies = sum(len(entry.copies) for entry in stay)
        spent = (self._bench.problem.spent - self._begin).gradients
        planned = copies * (self._lengths[-1] - self._lengths[-2] + 1 / 3)
        spare = max(0.0, self._plan.gradients - spent - planned) / copies
        self._lengths[-1] = max(
            self._lengths[-1], min(self._lengths[-1] + spare, self._plan.length)
        )

    def joined(self) -> list[Remedy]:
        """Pairs of remedies that helped and change different things, the best first."""
        unchanged, *others = self._entries
        good = sorted((e for e in others if self._helped(e, unchanged)), key=lambda e: e.score)
        known = {frozenset(e.remedy.key.split(" & ")) for e in others}
        found: list[Remedy] = []
        for k, one in enumerate(good[:4]):
            for other in good[k + 1 :][:6]:
                parts = frozenset([*one.remedy.key.split(" & "), *other.remedy.key.split(" & ")])
                pair = one.remedy, other.remedy
                bound = any(r.bound for r in pair) and any("model" in r.groups for r in pair)
                if set(one.remedy.groups) & set(other.remedy.groups) or parts in known or bound:
                    continue
                known.add(parts)
                found.append(one.remedy + other.remedy)
        return found[:JOINED]

    def trials(self, outcome: str) -> tuple[Trial, ...]:
        """What became of each, the best first."""
        if not self._entries:
            return ()
        unchanged, *others = self._entries
        ended = [e for e in others if e.last >= 0 and e.last in unchanged.losses]
        ended.sort(
            key=lambda e: (
                not self._helped(e, unchanged),
                not math.isfinite(e.score),
                -e.last,
                e.score,
            )
        )
        if ended:
            best = ended[0]
            near = best.score + SIMPLER * max(0.0, self._before - best.score)
            good = self._helped(best, unchanged)
            alike = [
                e
                for e in ended
                if e.last == best.last and e.score <= near and self._helped(e, unchanged) == good
            ]
            simplest = min(alike, key=lambda e: (e.remedy.intrusion, others.index(e)))
            ended.remove(simplest)
            ended.insert(0, simplest)
        return tuple(self._trial(entry, unchanged, outcome) for entry in ended)

    def _trial(self, entry: _Entry, unchanged: _Entry, outcome: str) -> Trial:
        last, remedy = entry.last, entry.remedy
        done = min(self._updates(entry.copies[0], last), max(len(c.losses) for c in entry.copies))
        same = self._updates(unchanged.copies[0], last)
        whole = last == len(ROUNDS) - 1
        return Trial(
            remedy=remedy.name,
            about=remedy.about,
            loss_before=self._before,
            losses_after=self._each(entry.losses[last]),
            continue_losses=self._each(unchanged.losses[last]),
            helped=self._helped(entry, unchanged),
            cost=entry.cost,
            code=remedy.code,
            keeps_weights=remedy.keeps_weights,
            keeps_model="model" not in remedy.groups,
            gradients=self._lengths[last],
            updates=done,
            curve=self._each(tuple(_curve(copy.losses[:done]) for copy in entry.copies)),
            continue_curve=self._each(
                tuple(_curve(copy.losses[:same]) for copy in unchanged.copies)
            ),
            key=remedy.key,
            seeds=self._seeds,
            outcome="complete" if whole else outcome if outcome == "interrupted" else "dropped",
        )

    def _each(self, told: tuple[Told, ...]) -> tuple[Told, ...]:
        """One a seed, where all are the same and one was trained."""
        return told * SEEDS if len(told) == 1 else told

    def _helped(self, entry: _Entry, unchanged: _Entry) -> bool:
        if entry.last not in unchanged.losses:
            return False
        return helped(
            entry.losses[entry.last], unchanged.losses[entry.last], self._before, self._left
        )

    def _updates(self, copy: Copy, round_: int) -> int:
        gradients = self._lengths[round_]
        size = min(copy.batch_size, max(1, self._bench.samples))
        updates = int(gradients * max(1, self._bench.samples) / size)
        return max(1, updates)

    def _train(self, entry: _Entry, round_: int) -> None:
        for copy in entry.copies:
            copy.train(max(0, self._updates(copy, round_) - len(copy.losses)))
            if self._progress is not None:
                done = (self._bench.problem.spent - self._begin).gradients
                self._progress("trials", min(done, self._plan.gradients), self._plan.gradients)
        entry.losses[round_] = tuple(copy.loss() for copy in entry.copies)


def helped(after: Sequence[float], unchanged: Sequence[float], before: float, left: float) -> bool:
    """Whether the median is below every copy that went on, and below their median by more than they deviate and by what matters."""
    finite = [loss for loss in unchanged if math.isfinite(loss)]
    middle, left = _middle(after), max(0.0, left)
    if not finite:
        return middle < before - MATTERS * left
    gap = median(finite) - middle
    apart = middle < min(*finite, before)
    return apart and gap > max(pstdev(finite), MATTERS * left)


def _middle(losses: Sequence[float]) -> float:
    return median(loss if math.isfinite(loss) else math.inf for loss in losses)


def _told(losses: Sequence[float]) -> str:
    middle = _middle(losses)
    return number(middle) if math.isfinite(middle) else "blew up"


def _curve(losses: Sequence[float]) -> tuple[float, ...]:
    """At most so many means of neighbors."""
    count = min(POINTS, len(losses))
    edges = [round(k * len(losses) / count) for k in range(count + 1)] if count else []
    return tuple(math.fsum(losses[a:b]) / (b - a) for a, b in pairwise(edges) if b > a)
