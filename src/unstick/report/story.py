"""How a record is told, wherever it is shown: the verdict, then the proof, then the numbers.

Answers: which badge, which words, which numbers, in which order?
Does not answer: how they look; the terminal and the page draw the same story.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from math import isfinite
from statistics import median

from unstick.critical.escaping import Escape
from unstick.critical.found import Found, Search
from unstick.critical.layers import CurvatureByLayer, LayeredEnds
from unstick.critical.planning import Plan
from unstick.critical.point import Kind, Point
from unstick.diagnosis.cause import HEALTHY, Cause
from unstick.diagnosis.diagnosing import CRITICAL, Diagnosis
from unstick.diagnosis.stall import StalledRun
from unstick.diagnosis.trials import Trial
from unstick.landscape.convexity import Convexity
from unstick.problem.cost import Cost
from unstick.problem.memory import size
from unstick.record import Fact, Record, number
from unstick.report.figures import amount, counted
from unstick.report.knobs import reached
from unstick.report.trial_figures import ended_at
from unstick.spectrum.density import Density
from unstick.spectrum.ends import Ends
from unstick.spectrum.interval import Interval
from unstick.studies.demo import Demonstration
from unstick.studies.frame.comparing import Verdict
from unstick.studies.frame.result import StudyResult
from unstick.studies.gallery.measuring import GalleryResult, wilson
from unstick.training.averaging import Swapped
from unstick.training.loop import Trained
from unstick.training.population import Population
from unstick.training.samples import Score
from unstick.training.signals import SignalByLayer

__all__ = ["Card", "Story", "Tone", "story_of"]


class Tone(StrEnum):
    """What a verdict means for the reader; each has one color, in a terminal and on a page."""

    WAY_OUT = "way-out"  # stuck, and there is a way down
    SETTLED = "settled"  # nothing left to gain here
    MOVING = "moving"  # not stuck at this point
    OPEN = "open"  # cannot be told
    FAULT = "fault"  # stuck, and a setting, the model or the data must change
    PLAIN = "plain"  # a measurement without a verdict


TONES = {
    Kind.SADDLE: Tone.WAY_OUT,
    Kind.MAXIMUM: Tone.WAY_OUT,
    Kind.MINIMUM: Tone.SETTLED,
    Kind.NOT_CRITICAL: Tone.MOVING,
    Kind.DEGENERATE: Tone.OPEN,
    Kind.UNDECIDED: Tone.OPEN,
}


ENDS: Mapping[str, Tone] = {
    "done": Tone.MOVING,
    "target reached": Tone.SETTLED,
    "second-order stationary": Tone.SETTLED,
    "no progress": Tone.OPEN,
    "diverged": Tone.OPEN,
    "interrupted": Tone.OPEN,
}
"""What the end of a training means."""


FINDS: Mapping[str, Tone] = {
    "critical": Tone.SETTLED,
    "gradient-flat": Tone.OPEN,
    "neither": Tone.OPEN,
}
"""What the end of a search for a critical point means."""

VERDICTS: Mapping[str, Tone] = {
    Verdict.SUPPORTED: Tone.WAY_OUT,
    Verdict.CONTRADICTED: Tone.FAULT,
    Verdict.INCONCLUSIVE: Tone.OPEN,
}
"""What became of a claim."""


@dataclass(frozen=True, slots=True)
class Card:
    """One key number: what it is, the number, and what is known about it."""

    label: str
    value: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Story:
    """A record in the order in which it is told."""

    badge: str  # the kind in one or two words; empty without a verdict
    tone: Tone
    headline: str
    summary: str  # plain words; empty where the headline says it all
    proof: str  # one sentence that a reader can check; empty where there is none
    cards: tuple[Card, ...]  # the few numbers to remember
    facts: tuple[Fact, ...]  # all the numbers, without what was said above
    remedy: str = ""  # the best that helped, in a sentence; empty where none did
    code: str = ""  # the same for one's own model
    about: str = ""  # what the page is of, where the record's type does not say it


def story_of(record: Record) -> Story:
    """Tell any record of the package; unknown ones by their own headline and facts."""
    match record:
        case Demonstration():
            told = story_of(record.diagnosis)
            cards = (*_run_cards(record), *told.cards)
            facts = _without(record.facts(), told.summary, told.proof)
            return replace(told, headline=record.headline(), cards=cards, facts=facts)
        case Diagnosis():
            return _diagnosis_story(record)
        case Point():
            facts = _without(record.facts(), str(record.kind), record.proof)
            badge, tone = str(record.kind), TONES[record.kind]
            return Story(
                badge, tone, record.headline(), "", record.proof, _point_cards(record), facts
            )
        case Escape():
            badge, tone = ("moved", Tone.WAY_OUT) if record.moved else ("not moved", Tone.OPEN)
            return Story(
                badge, tone, record.headline(), "", "", _escape_cards(record), tuple(record.facts())
            )
        case StalledRun():
            told = story_of(record.diagnosis)
            cards = (_length_card(record.trained), *told.cards)
            facts = _without(record.facts(), told.summary, told.proof)
            return replace(told, headline=record.headline(), cards=cards, facts=facts)
        case Trained():
            badge, tone = record.outcome, ENDS.get(record.outcome, Tone.PLAIN)
            return _judged(badge, tone, record, _training_cards(record))
        case Population():
            return _judged(*_population_end(record), record, _population_cards(record))
        case Swapped():
            return _judged(*_swap_end(record), record, _swap_cards(record))
        case SignalByLayer():
            if record.outcome == "finite":
                return _plain(record, ())
            return _judged(record.outcome, Tone.OPEN, record, ())
        case GalleryResult():
            badge, tone = "", Tone.PLAIN
            if record.outcome != "complete":
                badge, tone = record.outcome, Tone.OPEN
            return _judged(badge, tone, record, _gallery_cards(record))
        case Found():
            badge, tone = record.outcome, FINDS[record.outcome]
            return _judged(badge, tone, record, _found_cards(record))
        case Search():
            tone = Tone.SETTLED if record.critical else Tone.OPEN
            return _judged(f"{len(record.critical)} critical", tone, record, _search_cards(record))
        case Convexity():
            tone = Tone.WAY_OUT if record.violations else Tone.PLAIN
            return _judged(record.outcome, tone, record, ())
        case StudyResult():
            facts = _without(record.facts(), record.said)
            return Story(
                str(record.verdict),
                VERDICTS[record.verdict],
                record.headline(),
                record.said,
                "",
                _study_cards(record),
                facts,
                about=f"study {record.name}",
            )
        case Ends():
            return _plain(record, _ends_cards(record))
        case LayeredEnds():
            return _plain(record, _ends_cards(record.ends))
        case CurvatureByLayer():
            return _plain(record, _layers_cards(record))
        case Plan():
            return _plain(record, _plan_cards(record))
        case Density():
            return _plain(record, _density_cards(record))
        case _:
            return _plain(record, ())


def _diagnosis_story(told: Diagnosis) -> Story:
    """The point's proof is told where the cause rests on it; else the reasons are, among the facts."""
    badge = f"fine: {told.cause}" if told.cause in HEALTHY else str(told.cause)
    cards = (*_point_cards(told.point)[:-1], _cost_card(told.cost))
    own = told.cause in CRITICAL or told.cause == Cause.UNDECIDED
    proof = told.point.proof if own or told.point.proof in told.causes[0].reasons else ""
    facts = _without(told.facts(), told.summary, proof)
    story = Story(badge, _diagnosis_tone(told), told.headline(), told.summary, proof, cards, facts)
    if told.remedy is None:
        return story
    return replace(story, remedy=_remedy_told(told.remedy), code=told.remedy.code)


def _remedy_told(best: Trial) -> str:
    """What was changed, and what that reached beside going on."""
    alike = len(set(best.losses_after)) == 1
    seeds = (
        f"on each of {len(best.seeds)} seeds" if alike else f"the median of {len(best.seeds)} seeds"
    )
    went_on = ended_at(best.continue_losses)
    beside = "blew up" if went_on == "blew up" else f"reached {went_on}"
    lost = "" if best.keeps_weights else " It starts anew: what was learned is lost."
    other = (
        ""
        if best.keeps_model
        else " It changes the model: a checkpoint of the old one does not fit."
    )
    return (
        f"{best.about[:1].upper()}{best.about[1:]}. Training on for {counted(best.updates, 'update')} took the loss from "
        f"{amount(best.loss_before)} to {ended_at(best.losses_after)}, {seeds}; going on unchanged {beside}.{lost}{other}"
    )


def _diagnosis_tone(told: Diagnosis) -> Tone:
    if told.cause in HEALTHY:
        return Tone.SETTLED
    if told.cause == Cause.UNDECIDED:
        return Tone.OPEN
    if told.cause == Cause.STRICT_SADDLE:  # beside one, the point itself is not critical
        return Tone.WAY_OUT
    return TONES[told.point.kind] if told.cause in CRITICAL else Tone.FAULT


def _plain(record: Record, cards: tuple[Card, ...]) -> Story:
    return _judged("", Tone.PLAIN, record, cards)


def _judged(badge: str, tone: Tone, record: Record, cards: tuple[Card, ...]) -> Story:
    return Story(badge, tone, record.headline(), "", "", cards, tuple(record.facts()))


def _without(facts: list[Fact], *said: str) -> tuple[Fact, ...]:
    return tuple((label, value) for label, value in facts if value not in said)


def _point_cards(point: Point) -> tuple[Card, ...]:
    error = point.gradient_standard_error
    known = "no sampling error measured" if error is None else f"± {amount(error)} sampling error"
    return (
        Card("Loss", number(point.loss, 5), "" if error is None else "over all the data"),
        Card("Gradient norm ‖g‖", amount(point.gradient_norm), known),
        _interval_card("Lowest curvature λ\u00a0min", point.lambda_min),
        _interval_card("Highest curvature λ\u00a0max", point.lambda_max),
        _cost_card(point.cost),
    )


def _escape_cards(escape: Escape) -> tuple[Card, ...]:
    return (
        Card("Loss before", number(escape.loss_before, 5)),
        Card("Loss after", number(escape.loss_after, 5), "measured again after the move"),
        Card("Predicted decrease", amount(escape.predicted_decrease), "by the Taylor model"),
        Card("Distance moved", number(escape.step), "in parameter space"),
        _cost_card(escape.cost),
    )


def _found_cards(found: Found) -> tuple[Card, ...]:
    ratio = found.minimum_ratio
    return (
        Card("Loss", number(found.loss, 5), f"{amount(found.start_loss)} at the start"),
        Card("‖g‖²", amount(found.gradient_norm_squared), f"critical below {amount(found.cutoff)}"),
        *(() if ratio is None else (Card("Minimum ratio", amount(ratio), "of all eigenvalues"),)),
        _cost_card(found.cost),
    )


def _search_cards(found: Search) -> tuple[Card, ...]:
    counts = found.counts
    return (
        *(
            Card(outcome.capitalize(), f"{count} of {found.starts}")
            for outcome, count in counts.items()
        ),
        _cost_card(found.cost),
    )


def _study_cards(told: StudyResult) -> tuple[Card, ...]:
    failed = sum(bool(row.failed) for row in told.rows)
    lost = "" if not failed else f"{failed} failed"
    return (
        Card("Study", told.name, told.source),
        Card("Arms", f"{len(told.arms)}", ", ".join(told.arms) if len(told.arms) < 5 else ""),
        Card("Measured", f"{len(told.rows) - failed} of {told.planned}", lost or "arms and seeds"),
        Card("Seconds", f"{told.seconds:,.1f}", "of all arms, one after the other"),
    )


def _ends_cards(ends: Ends) -> tuple[Card, ...]:
    return (
        _interval_card("Lowest curvature λ\u00a0min", ends.lambda_min),
        _interval_card("Highest curvature λ\u00a0max", ends.lambda_max),
        Card(
            "Noise floor",
            amount(ends.noise_floor),
            "inside it a curvature is zero to the arithmetic",
        ),
        Card("Hessian products", f"{ends.products:,}", ends.outcome),
    )


def _layers_cards(found: CurvatureByLayer) -> tuple[Card, ...]:
    sharpest = max(found.blocks, key=lambda block: block.lambda_max.value)
    lowest = min(found.blocks, key=lambda block: block.lambda_min.value)
    return (
        Card("Layers", f"{len(found.blocks)}", found.outcome),
        Card("Sharpest layer", sharpest.name, f"λ\u00a0max = {amount(sharpest.lambda_max.value)}"),
        Card("Lowest curvature in", lowest.name, f"λ\u00a0min = {amount(lowest.lambda_min.value)}"),
        _cost_card(found.cost),
    )


def _plan_cards(plan: Plan) -> tuple[Card, ...]:
    known = plan.free_bytes
    matrix = ("Dense Hessian", size(plan.dense_bytes), "with its eigenvalues")
    if not plan.dense_bytes:
        matrix = ("Krylov basis", size(plan.basis_bytes), f"{plan.basis_columns} columns")
    return (
        Card(
            "In all",
            size(plan.total_bytes),
            "not known" if known is None else f"{size(known)} free",
        ),
        Card("Graphs kept", size(plan.graph_bytes), f"{plan.graphs_kept:,} batches"),
        Card("Workspace", size(plan.workspace_bytes), f"{plan.graphs_rebuilt:,} batches rebuilt"),
        Card(*matrix),
    )


def _density_cards(density: Density) -> tuple[Card, ...]:
    return (
        Card("Random starts", f"{density.starts}", f"{density.steps} steps each"),
        Card("Width of a value", number(density.width), "σ of the Gaussian that draws it"),
        Card(
            "Noise floor",
            amount(density.noise_floor),
            "inside it a curvature is zero to the arithmetic",
        ),
        Card("Hessian products", f"{density.products:,}", density.outcome),
    )


def _run_cards(demonstration: Demonstration) -> tuple[Card, ...]:
    stalled, resumed = demonstration.accuracy_stalled, demonstration.accuracy_resumed
    return (
        Card(
            "Accuracy",
            f"{resumed:.1%}",
            f"was {stalled:.1%} while stuck; {demonstration.test_accuracy:.1%} on new samples",
        ),
    )


def _training_cards(told: Trained) -> tuple[Card, ...]:
    last, known = told.last(), [second for second in told.trace.seconds if second is not None]
    first = f"mean over the last epoch; {amount(told.first_loss)} at first"
    pace = f"an update {amount(number(1e3 * median(known), 2))} ms" if known else ""
    return (
        Card("Final loss", amount(told.final_loss), first if told.trace.loss else "no update"),
        *(() if last is None else (_score_card(last),)),
        _length_card(told),
        Card("Seconds", f"{told.cost.seconds:.1f}", pace),
    )


def _gallery_cards(told: GalleryResult) -> tuple[Card, ...]:
    cards: list[Card] = []
    if told.stalls:
        total = len(told.stalls)
        right = sum(case.right for case in told.stalls)
        near = sum(case.near for case in told.stalls)
        cards.append(Card("Right cause first", f"{right} of {total}", _sure(right, total)))
        cards.append(Card("Among the first two", f"{near} of {total}", _sure(near, total)))
    if told.healthy:
        total = len(told.healthy)
        alarms = sum(case.alarm for case in told.healthy)
        cards.append(Card("False alarms", f"{alarms} of {total}", _sure(alarms, total)))
    return (*cards, Card("Seconds", f"{told.seconds:,.0f}", told.outcome))


def _sure(hits: int, total: int) -> str:
    low, high = wilson(hits, total)
    return f"{low:.0%} to {high:.0%} with 95\u00a0% confidence"


def _length_card(told: Trained) -> Card:
    return Card("Epochs", number(told.epochs), counted(len(told.trace.loss), "update"))


def _score_card(score: Score, what: str = "") -> Card:
    """The accuracy where there is one, else the loss."""
    split = what or score.split.capitalize()
    if score.accuracy is None:
        return Card(f"{split} loss", amount(score.loss), f"after update {score.update:,}")
    return Card(
        f"{split} accuracy", f"{score.accuracy:.2%}", f"{score.split} loss {amount(score.loss)}"
    )


def _population_end(told: Population) -> tuple[str, Tone]:
    if told.outcome == "interrupted":
        return told.outcome, ENDS[told.outcome]
    lost = sum(reached(member) is None for member in told.members)
    if lost == len(told.members):
        return "all diverged", Tone.OPEN
    return (f"{lost} of {len(told.members)} diverged" if lost else "done"), Tone.MOVING


def _population_cards(told: Population) -> tuple[Card, ...]:
    ends = {k: end for k, m in enumerate(told.members) if (end := reached(m)) is not None}
    scores = [score for member in told.members if (score := member.last()) is not None]
    cards = [Card("Members", f"{len(told.members):,}", f"{told.together:,} trained at once")]
    if ends:
        best = min(ends, key=lambda k: ends[k])
        cards.append(Card("Lowest final loss", amount(ends[best]), f"member {best}"))
    if known := [score for score in scores if isfinite(score.loss)]:
        exact = [score for score in known if score.accuracy is not None]
        best_score = (
            max(exact, key=lambda s: s.accuracy or 0.0)
            if exact
            else min(known, key=lambda s: s.loss)
        )
        cards.append(_score_card(best_score, f"Best {best_score.split}"))
    return (*cards, _cost_card(told.cost))


def _swap_end(told: Swapped) -> tuple[str, Tone]:
    """Where the average stands among what it is made of."""
    losses = [told.before.loss, *(score.loss for score in told.apart)]
    if told.averaged.loss < min(losses):
        return "average is lowest", Tone.MOVING
    return "average is not lowest", Tone.OPEN


def _swap_cards(told: Swapped) -> tuple[Card, ...]:
    return (
        _score_card(told.before, "Before:"),
        _score_card(told.averaged, "Average:"),
        Card("Workers", f"{len(told.apart)}", f"{told.workers.together} trained at once"),
        _cost_card(told.cost),
    )


def _interval_card(label: str, interval: Interval | None) -> Card:
    if interval is None:
        return Card(label, number(None))
    low, high = amount(interval.low), amount(interval.high)
    return Card(label, amount(interval.value), f"in [{low}, {high}]{_surety(interval)}")


def _surety(interval: Interval) -> str:
    least = min(interval.low_confidence, interval.high_confidence)
    return "" if least == 1.0 else f" with probability {least:.6g}"


def _cost_card(cost: Cost) -> Card:
    return Card(
        "Cost in gradients",
        f"{cost.gradients:,.1f}",
        f"{cost.samples:,} samples, {cost.seconds:.1f} s",
    )
