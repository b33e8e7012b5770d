"""How often the diagnosis is right on the gallery: the confusion of causes, and false alarms on healthy trainings.

Answers: on labelled trainings, which cause comes first, and how often does a healthy one pass for a stall?
Does not answer: how it does on yours; these are the trainings that its thresholds were looked at with.
"""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import median

from unstick.diagnosis.cause import HEALTHY, Cause
from unstick.diagnosis.diagnosing import diagnose
from unstick.diagnosis.evidence import gather
from unstick.diagnosis.rules import support
from unstick.errors import BadRecipe, NonFinite
from unstick.record import Fact, Record, number
from unstick.studies.gallery.healthy import STAGES, Healthy, Stage, all_healthy
from unstick.studies.gallery.stall import Stall
from unstick.studies.gallery.stalls import all_stalls
from unstick.studies.gallery.unsticking import Unsticking, unstick_stall

__all__ = ["Case", "GalleryResult", "measure_gallery", "wilson"]

Progress = Callable[[str, float, float], None]

BUDGET = 500.0


@dataclass(frozen=True, slots=True)
class Case:
    """One training that was diagnosed."""

    name: str
    seed: int
    stage: str  # "stalled", or how far a healthy training was
    accepted: tuple[Cause, ...]  # the right answers
    found: tuple[Cause, ...]  # ranked
    gradients: float  # what it cost, restarts included
    unsticking: Unsticking | None = None  # where remedies were tried and a repair is documented

    @property
    def right(self) -> bool:
        """Whether the first cause is a right answer."""
        return bool(self.found) and self.found[0] in self.accepted

    @property
    def near(self) -> bool:
        """Whether one of the first two is."""
        return any(cause in self.accepted for cause in self.found[:2])

    @property
    def alarm(self) -> bool:
        """Whether a stall was named that is none."""
        return bool(self.found) and self.found[0] not in (*HEALTHY, Cause.UNDECIDED)


@dataclass(frozen=True, slots=True)
class GalleryResult(Record):
    """What was found on each training of the gallery."""

    stalls: tuple[Case, ...]  # those that really stalled
    healthy: tuple[Case, ...]
    did_not_stall: tuple[str, ...]  # name and seed
    outcome: str  # "complete" or "interrupted"
    seconds: float

    def headline(self) -> str:
        """How often it is right, and how often it cries wolf."""
        parts: list[str] = []
        if self.stalls:
            right = sum(case.right for case in self.stalls)
            parts.append(f"the right cause first in {right} of {len(self.stalls)} stalls")
        if self.healthy:
            alarms = sum(case.alarm for case in self.healthy)
            parts.append(f"{alarms} false alarms on {len(self.healthy)} healthy trainings")
        return f"{', '.join(parts).capitalize() or 'Nothing was diagnosed'}."

    def facts(self) -> list[Fact]:
        """Shares with their intervals, what was confused, what it cost."""
        facts: list[Fact] = []
        if self.stalls:
            total = len(self.stalls)
            labels = Counter(case.accepted[0] for case in self.stalls)
            common, count = labels.most_common(1)[0]
            facts += [
                ("right first", _share(sum(c.right for c in self.stalls), total)),
                ("among two", _share(sum(c.near for c in self.stalls), total)),
                ("always the same", f"{common}: {_share(count, total)}"),
                (
                    "gradients",
                    f"{number(median(c.gradients for c in self.stalls))} in the median stall",
                ),
            ]
        if self.healthy:
            total = len(self.healthy)
            open_ = sum(case.found[:1] == (Cause.UNDECIDED,) for case in self.healthy)
            facts += [
                ("false alarms", _share(sum(c.alarm for c in self.healthy), total)),
                ("undecided", _share(open_, total)),
                (
                    "gradients",
                    f"{number(median(c.gradients for c in self.healthy))} in the median healthy training",
                ),
            ]
        facts += _unsticking_facts([c.unsticking for c in self.stalls if c.unsticking is not None])
        confused = Counter(
            (case.accepted[0], case.found[0]) for case in self.stalls if not case.right
        )
        facts += [
            ("confused", f"{wanted} taken for {got}{f', {n} times' if n > 1 else ''}")
            for (wanted, got), n in confused.most_common()
        ]
        facts += [
            ("alarm", f"{case.name}, {case.stage}, seed {case.seed}: {case.found[0]}")
            for case in self.healthy
            if case.alarm
        ]
        facts += [("did not stall", name) for name in self.did_not_stall]
        return [*facts, ("took", f"{self.seconds:.0f} s")]


def measure_gallery(
    *,
    seeds: Sequence[int] = (0,),
    names: Sequence[str] = (),
    healthy: bool = True,
    trials: bool = False,
    progress: Progress | None = None,
) -> GalleryResult:
    """Train and diagnose every labelled training.

    Args:
        seeds: Of the trainings and the diagnoses.
        names: Only those whose names contain one of these; none: all.
        healthy: Whether healthy trainings are diagnosed too.
        trials: Whether remedies are tried on the stalls, and their best trained on as long as the stalled run, beside the
            documented repair, one constant answer, and as many remedies drawn at random.
        progress: Called with (stage, done, total).

    Returns:
        The causes found; on Ctrl-C those so far.

    Raises:
        BadRecipe: No training has such a name.

    Cost:
        About two seconds a training on one core, twenty with trials; the whole gallery with one seed takes ten minutes.
    """
    begin = time.perf_counter()
    stalls = [s for s in all_stalls() if _chosen(s.name, names)]
    others = [h for h in all_healthy() if _chosen(h.name, names)] if healthy else []
    if not stalls and not others:
        known = ", ".join(s.name for s in all_stalls())
        raise BadRecipe(f"no training is called {', '.join(names)}; the stalls are {known}")
    total = len(seeds) * (len(stalls) + len(STAGES) * len(others))
    found: list[Case] = []
    fine: list[Case] = []
    unstuck: list[str] = []
    outcome, done = "complete", 0
    try:
        for stall in stalls:
            for seed in seeds:
                _tell(progress, done, total)
                done += 1
                case = _stalled(stall, seed, trials)
                if case is None:
                    unstuck.append(f"{stall.name}, seed {seed}")
                else:
                    found.append(case)
        for training in others:
            for seed in seeds:
                for stage in STAGES:
                    _tell(progress, done, total)
                    done += 1
                    fine.append(_healthy(training, seed, stage))
    except KeyboardInterrupt:
        outcome = "interrupted"
    seconds = time.perf_counter() - begin
    return GalleryResult(tuple(found), tuple(fine), tuple(unstuck), outcome, seconds)


def wilson(hits: int, total: int, z: float = 1.96) -> tuple[float, float]:
    """The interval in which a share lies with 95 % confidence, after so many hits.

    References:
        Wilson (1927), Probable inference, the law of succession, and statistical inference.

    Example:
        >>> [round(x, 3) for x in wilson(1, 100)]
        [0.002, 0.054]
    """
    share = hits / total
    middle = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z * sqrt(share * (1 - share) / total + z * z / (4 * total**2)) / (1 + z * z / total)
    return max(0.0, middle - half), min(1.0, middle + half)


def _stalled(stall: Stall, seed: int, trials: bool) -> Case | None:
    """The diagnosis of a stall; None where this seed does not stall."""
    try:
        run = stall.start(seed)
    except NonFinite:  # refused with a line that says so, which is the diagnosis
        return Case(stall.name, seed, "stalled", stall.causes, (Cause.NON_FINITE,), 0.0)
    if not stall.stalls(run):
        return None
    if not trials:
        evidence, _ = gather(run, budget=BUDGET, seed=seed)
        causes = tuple(told.cause for told in support(evidence))
        spent = run.problem.spent.gradients
        return Case(stall.name, seed, "stalled", stall.causes, causes, spent)
    told = diagnose(
        run.problem,
        run.optimizer,
        batch_size=run.batch_size,
        history=run.history,
        scheduler=run.scheduler,
        clip_norm=run.clip_norm,
        budget=BUDGET,
        seed=seed,
        pictures=False,
    )
    causes = tuple(each.cause for each in told.causes)
    reached = unstick_stall(stall, run, told, seed=seed)
    return Case(stall.name, seed, "stalled", stall.causes, causes, told.cost.gradients, reached)


def _unsticking_facts(found: Sequence[Unsticking]) -> list[Fact]:
    """How many stalls the best remedy unsticks, and what the alternatives do."""
    if not found:
        return []
    total = len(found)
    facts = [
        ("unstuck by the best trial", _share(sum(u.unstuck for u in found), total)),
        ("by one constant answer", _share(sum(u.near(u.constant) for u in found), total)),
        ("by the best of random ones", _share(sum(u.near(u.at_random) for u in found), total)),
        (
            "trials took",
            f"{number(median(u.gradients for u in found))} gradients in the median stall",
        ),
    ]
    over = sum(u.gradients > u.allowed for u in found)
    return [*facts, ("over their budget", f"{over} of {total}")]


def _healthy(training: Healthy, seed: int, stage: Stage) -> Case:
    run = training.start(seed, stage)
    evidence, _ = gather(run, budget=BUDGET, seed=seed)
    causes = tuple(told.cause for told in support(evidence))
    return Case(training.name, seed, stage, HEALTHY, causes, run.problem.spent.gradients)


def _chosen(name: str, names: Sequence[str]) -> bool:
    return not names or any(part in name for part in names)


def _tell(progress: Progress | None, done: int, total: int) -> None:
    if progress is not None:
        progress("trainings", done, total)


def _share(hits: int, total: int) -> str:
    low, high = wilson(hits, total)
    return f"{hits} of {total} ({hits / total:.1%}; {low:.1%} to {high:.1%} with 95 % confidence)"
