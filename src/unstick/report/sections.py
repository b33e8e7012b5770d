"""What the page of each record shows: which sections, in which order, with which figures and tables.

Answers: what is there to see of this record?
Does not answer: how a figure is drawn (the figure modules), or how the page looks (the templates).
"""

from collections.abc import Iterable
from dataclasses import dataclass

from unstick.critical.escaping import Escape
from unstick.critical.found import Found, Search
from unstick.critical.layers import CurvatureByLayer, LayeredEnds, LayerMass
from unstick.critical.point import Point
from unstick.critical.taylor import Profile
from unstick.diagnosis.diagnosing import Diagnosis
from unstick.diagnosis.portrait import Portrait
from unstick.diagnosis.stall import StalledRun
from unstick.diagnosis.trajectory import Trajectory
from unstick.landscape.convexity import Convexity, Violation
from unstick.landscape.interpolation import Interpolation
from unstick.landscape.line import Line
from unstick.landscape.plane import Plane
from unstick.landscape.rescaling import Rescaled
from unstick.landscape.sharpness import Comparison, Sharpness
from unstick.landscape.survey import Survey
from unstick.problem.cost import Cost
from unstick.record import Record
from unstick.report.evidence_figures import (
    arms_figure,
    causes_lead,
    causes_table,
    others_told,
    units_figure,
    values_table,
)
from unstick.report.figures import Figure, Table, counted
from unstick.report.finding_figures import ends_figure, founds_table, ways_figure
from unstick.report.gallery_figures import (
    alarms_table,
    confusion_figure,
    unsticking_table,
    wrong_table,
)
from unstick.report.knobs import members_table
from unstick.report.layer_figures import blocks_figure, mass_figures, signal_figures
from unstick.report.loss_figures import escape_figure, history_figure, line_figures, run_figure
from unstick.report.parameter_figures import gradient_figure, share_figure
from unstick.report.plane_figures import plane_figures
from unstick.report.population_figures import population_figures, swap_figures
from unstick.report.scan_figures import (
    ONLY_EQUAL,
    comparison_table,
    interpolation_figures,
    rescaling_figure,
    rescaling_table,
    rewritten_figures,
    scan_figures,
    sharpness_table,
    tests_table,
    violation_figure,
    violation_figures,
    way_figure,
)
from unstick.report.spectrum_figures import (
    Curvatures,
    curvatures_of,
    negative_end_figure,
    spectrum_figure,
)
from unstick.report.story import story_of
from unstick.report.study_figures import (
    batches_table,
    effects_figure,
    effects_table,
    overview_table,
    study_figures,
    values_of_arms,
    verdicts_figure,
)
from unstick.report.toy_figures import checks_table, steps_table, toy_figures
from unstick.report.training_figures import training_figures
from unstick.report.trial_figures import (
    helped_told,
    trials_figure,
    trials_lead,
    trials_table,
    untested_told,
)
from unstick.spectrum.density import Density
from unstick.spectrum.ends import Ends
from unstick.studies.demo import Demonstration
from unstick.studies.frame.overview import Overview
from unstick.studies.frame.result import StudyResult
from unstick.studies.gallery.measuring import GalleryResult
from unstick.studies.toys.toy import Toy
from unstick.training.averaging import Swapped
from unstick.training.loop import Trained
from unstick.training.population import Population
from unstick.training.signals import SignalByLayer

__all__ = ["Section", "costs_of", "figures_of", "notes_of", "sections_of"]


@dataclass(frozen=True, slots=True)
class Section:
    """A heading, a sentence, and what is under it; without any of that it is left out."""

    title: str
    lead: str
    figures: tuple[Figure, ...] = ()
    table: Table | None = None
    after: str = ""  # a sentence under the table
    told: str = ""  # a paragraph
    points: tuple[str, ...] = ()
    page: str = ""  # of a folder of pages, the one that tells the whole of it

    @property
    def empty(self) -> bool:
        """Whether nothing is under the heading."""
        return not (self.figures or self.table or self.told or self.points)


def figures_of(record: Record) -> list[Figure]:
    """Every figure of a record's page, in order."""
    return [figure for section in sections_of(record) for figure in section.figures]


def sections_of(record: Record) -> Iterable[Section]:
    """The sections of a record's page; some may be empty."""
    match record:
        case Demonstration():
            yield Section("The run", "", (run_figure(record),))
            yield from _of_diagnosis(record.diagnosis)
        case Diagnosis():
            history = history_figure(record)
            yield Section("The run so far", "", () if history is None else (history,))
            yield from _of_diagnosis(record)
        case Point():
            yield _spectrum(curvatures_of(record), None)
        case Escape():
            yield Section("The escape", "", (escape_figure(record),))
        case Ends():
            yield _spectrum(curvatures_of(record), None)
        case LayeredEnds():
            yield _spectrum(curvatures_of(record.ends), None)
            yield Section("Layer by layer", "", tuple(mass_figures(record.mass)))
        case LayerMass():
            yield Section("Layer by layer", "", tuple(mass_figures(record)))
        case CurvatureByLayer():
            yield Section("Layer by layer", "", (blocks_figure(record),))
        case Density():
            yield _spectrum(curvatures_of(record), record)
        case Portrait():
            known = curvatures_of(record.density) if record.density else None
            yield from _of_portrait(record, known, None, 0.0)
        case Profile():
            yield Section("Along a line", "", tuple(line_figures([record], None)))
        case Plane():
            yield Section("The landscape", "", tuple(plane_figures(record, None)))
        case Line():
            yield Section("Along a line", "", tuple(scan_figures(record)))
        case Interpolation():
            yield Section("Between the checkpoints", "", tuple(interpolation_figures(record)))
        case Sharpness():
            yield _of_sharpness(record)
        case Comparison():
            yield Section("Beside one another", ONLY_EQUAL, table=comparison_table(record))
        case Rescaled():
            yield from _of_rescaling(record, [])
        case Survey():
            yield from _of_survey(record)
        case Convexity():
            yield Section("The proof", "", tuple(violation_figures(record)))
            yield Section("What was tried", "", table=tests_table(record))
        case Violation():
            yield Section("The proof", "", (violation_figure(record),))
        case Found():
            yield from _of_search((record,))
            if record.point is not None:
                yield _spectrum(curvatures_of(record.point), None)
        case Search():
            yield from _of_search(record.founds, record)
        case Trajectory():
            yield Section("The way", "", (way_figure(record),))
        case Toy():
            yield Section("The surface", record.lesson, tuple(toy_figures(record)))
            yield Section("How fast each one is", "", table=steps_table(record))
            yield Section("Measured beside closed forms", "", table=checks_table(record))
        case StudyResult():
            yield from _of_study(record)
        case Overview():
            glance = verdicts_figure(record)
            yield Section("At a glance", "", () if glance is None else (glance,))
            lead = "The table as it is taught, and what was measured for each line of it."
            yield Section("Small against large batches", lead, table=batches_table(record))
            yield Section("The claims", "", table=overview_table(record))
            for one in record.results:
                figures = tuple(study_figures(one, within=True))
                yield Section(one.name, one.said, figures, page=f"{one.name}.html")
        case Trained():
            yield Section("The training", "", training_figures(record))
        case StalledRun():
            yield Section("The training", "", training_figures(record.trained))
            yield from _of_diagnosis(record.diagnosis)
        case Population():
            yield from _of_population(record, "The members")
        case Swapped():
            yield Section("What the average is worth", "", swap_figures(record))
            together = training_figures(record.together, prefix="together-")
            yield Section("The large batches", "", together)
            yield from _of_population(record.workers, "The workers")
        case SignalByLayer():
            yield Section("Layer by layer", "", tuple(signal_figures(record)))
        case GalleryResult():
            yield from _of_gallery(record)
        case _:
            return


def _of_population(population: Population, title: str) -> Iterable[Section]:
    members = population.members
    if len(members) == 1:
        yield Section(title, "", training_figures(members[0], prefix="member-"))
        return
    lead = f"{len(members):,} members, the lowest final loss first."
    yield Section(title, "", population_figures(population))
    yield Section(f"{title}, one by one", lead, (), members_table(population))


def _of_gallery(told: GalleryResult) -> Iterable[Section]:
    matrix = confusion_figure(told)
    yield Section("What was found", "", () if matrix is None else (matrix,))
    wrong = sum(not case.right for case in told.stalls)
    lead = f"{counted(wrong, 'stall')} of {len(told.stalls):,} where another cause came first."
    yield Section("Where it was wrong", lead, table=wrong_table(told))
    tried = [case.unsticking for case in told.stalls if case.unsticking is not None]
    unstuck = sum(one.unstuck for one in tried)
    lead = (
        f"The best remedy brought {unstuck} of {counted(len(tried), 'stall')} to within a fifth of the way of the documented "
        "repair, trained on for as long as the stalled run. Losses of all data; the others first."
    )
    yield Section("What the best remedy came to", lead, table=unsticking_table(told))
    alarms = sum(case.alarm for case in told.healthy)
    lead = f"{counted(alarms, 'false alarm')} on {counted(len(told.healthy), 'healthy training')}."
    yield Section("Healthy trainings that were not recognized", lead, table=alarms_table(told))


def _of_survey(told: Survey) -> Iterable[Section]:
    yield from sections_of(told.plane)
    if told.sharpness is not None:
        yield _of_sharpness(told.sharpness)
    if told.rescaled is not None:
        yield from _of_rescaling(told.rescaled, rewritten_figures(told))


def _of_sharpness(found: Sharpness) -> Section:
    return Section("How sharp it is here", ONLY_EQUAL, table=sharpness_table(found))


def _of_rescaling(found: Rescaled, planes: list[Figure]) -> Iterable[Section]:
    curves = rescaling_figure(found)
    lead = "One function, its layers rescaled: what changes here is only how it is written."
    figures = (*planes, *(() if curves is None else (curves,)))
    yield Section("The same function, written otherwise", lead, figures, rescaling_table(found))


def _of_search(founds: tuple[Found, ...], search: Search | None = None) -> Iterable[Section]:
    ends = None if search is None else ends_figure(search)
    yield Section("Where they ended", "", () if ends is None else (ends,))
    ways = ways_figure(founds)
    yield Section("The way there", "", () if ways is None else (ways,))
    if search is not None and search.founds:
        yield Section("Every start", "", table=founds_table(search))


def _of_study(told: StudyResult) -> Iterable[Section]:
    yield Section("What was measured", told.question, tuple(study_figures(told)))
    effects = effects_figure(told)
    yield Section(
        "The effects", told.rule, () if effects is None else (effects,), effects_table(told)
    )
    yield Section("What is known against it", "", told=told.criticism)
    yield Section("How it was measured", "", told=told.measured)
    yield Section("Every arm on every seed", "", table=values_of_arms(told))
    yield Section("Again", "", points=(told.command,))


def _of_evidence(diagnosis: Diagnosis) -> Iterable[Section]:
    evidence = diagnosis.evidence
    arms = arms_figure(evidence)
    units = None if evidence.signals is None else units_figure(evidence.signals.layers)
    yield Section(
        "Why",
        causes_lead(diagnosis.cause),
        table=causes_table(diagnosis, said=story_of(diagnosis).proof),
        after=others_told(diagnosis),
    )
    lead = "Tried on copies; the model and its optimizer are as they were."
    yield Section("Other settings, tried from here", lead, () if arms is None else (arms,))
    yield Section("The units, layer by layer", "", () if units is None else (units,))
    yield Section("What was measured", "", table=values_table(evidence))
    lead = "Nothing was guessed in its place."
    yield Section("What was not known", lead, points=evidence.missing)


def _of_trials(diagnosis: Diagnosis) -> Iterable[Section]:
    if not diagnosis.trials:
        return
    curves = trials_figure(diagnosis)
    yield Section(
        "Remedies, tried from here",
        trials_lead(diagnosis),
        () if curves is None else (curves,),
        trials_table(diagnosis),
        after=helped_told(diagnosis),
    )
    yield Section(
        "What was not tested",
        "",
        told=untested_told(diagnosis),
        points=tuple(f"“{name}”: {why}" for name, why in diagnosis.untried),
    )


def _of_diagnosis(diagnosis: Diagnosis) -> Iterable[Section]:
    yield from _of_trials(diagnosis)
    yield from _of_evidence(diagnosis)
    portrait, escape = diagnosis.portrait, diagnosis.escape
    known = curvatures_of(diagnosis.point)
    if portrait is None:
        yield _spectrum(known, None)
    else:
        yield from _of_portrait(portrait, known, escape, diagnosis.point.loss_noise)
    if escape is not None:
        lead = "Tried from this very point, measured, and put back."
        yield Section("The escape", lead, (escape_figure(escape),))


def _of_portrait(
    portrait: Portrait, known: Curvatures | None, escape: Escape | None, noise: float
) -> Iterable[Section]:
    if known is not None:
        yield _spectrum(known, portrait.density)
    yield Section(
        "Two ways to go",
        _pictured(portrait),
        tuple(line_figures(portrait.lines, escape, noise=noise)),
    )
    if portrait.plane is not None:
        yield Section(
            "The landscape",
            _pictured(portrait),
            tuple(plane_figures(portrait.plane, escape, noise=noise)),
        )
    if len(portrait.layers) > 1:
        layers = (gradient_figure(portrait.layers), share_figure(portrait.layers))
        yield Section(
            "Layer by layer", "", tuple(figure for figure in layers if figure is not None)
        )


def _spectrum(known: Curvatures, density: Density | None) -> Section:
    enlarged = negative_end_figure(known)
    whole = spectrum_figure(known, density)
    return Section("The curvature", "", (whole,) if enlarged is None else (whole, enlarged))


def _pictured(portrait: Portrait) -> str:
    """Which samples the pictures are of; empty without data."""
    if portrait.of_samples == 0:
        return ""
    if portrait.samples == portrait.of_samples:
        return f"Pictures of all {portrait.samples:,} samples."
    return f"Pictures of {portrait.samples:,} of {portrait.of_samples:,} samples."


def costs_of(record: Record) -> Iterable[tuple[str, Cost]]:
    """What each part of the work has cost."""
    match record:
        case Demonstration():
            yield from costs_of(record.diagnosis)
            yield "the move", record.moved.cost
        case Diagnosis():
            yield "verdict and escape", record.cost
            if record.trials:
                cost = record.trials_cost
                yield "remedies tried (own budget)", cost
            if record.portrait is not None:
                yield "pictures (own budget)", record.portrait.cost
        case StalledRun():
            yield "the training", record.trained.cost
            yield from costs_of(record.diagnosis)
        case Swapped():
            yield "large batches", record.together.cost
            yield "workers", record.workers.cost
            yield "in all", record.cost
        case (
            Point()
            | Escape()
            | Portrait()
            | CurvatureByLayer()
            | Trained()
            | Population()
            | Plane()
            | Line()
            | Interpolation()
            | Survey()
            | Sharpness()
            | Rescaled()
            | Convexity()
            | Found()
            | Search()
            | Trajectory()
            | Toy()
        ):
            yield "in all", record.cost
        case _:
            return


def notes_of(record: Record) -> Iterable[str]:
    """What was chosen on the way, and every part that is not complete."""
    match record:
        case Demonstration():
            yield from notes_of(record.diagnosis)
        case Diagnosis():
            yield from notes_of(record.point)
            if any(trial.outcome == "interrupted" for trial in record.trials):
                yield from _partial("the trials", "interrupted")
            if record.portrait is not None:
                yield from notes_of(record.portrait)
        case StalledRun():
            yield from record.trained.notes
            yield from notes_of(record.diagnosis)
        case Trained():
            yield from record.notes
            yield from _partial("the training", record.outcome)
        case Population():
            yield from record.notes
            yield from _partial("the population", record.outcome)
            for place, member in enumerate(record.members):
                yield from (f"member {place}: {note}" for note in member.notes)
        case Swapped():
            yield from notes_of(record.together)
            yield from notes_of(record.workers)
        case Point():
            yield from record.notes
            yield from _partial("the verdict", record.outcome)
        case GalleryResult():
            yield from _partial("the gallery", record.outcome)
        case Plane() | Line() | Interpolation():
            yield from record.notes
            yield from _partial("the picture", record.outcome)
        case Survey():
            yield from notes_of(record.plane)
        case Sharpness() | Rescaled() | Convexity() | Search():
            yield from _partial("the measurement", record.outcome)
        case Found():
            if record.note:
                yield record.note
        case Toy():
            yield from record.notes
        case CurvatureByLayer():
            yield from record.notes
            yield from _partial("the layers", record.outcome)
        case Portrait():
            if pictured := _pictured(record):
                yield f"{pictured[:1].lower()}{pictured[1:-1]}"
            yield from record.notes
            yield from _partial("the pictures", record.outcome)
            if record.density is not None:
                yield from _partial("the density of curvatures", record.density.outcome)
        case _:
            return


def _partial(what: str, outcome: str) -> Iterable[str]:
    if outcome in ("budget", "interrupted", "stopped"):
        yield f"{what}: not complete ({outcome}); it is the best answer so far"
