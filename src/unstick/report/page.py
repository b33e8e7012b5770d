"""A record as one self-contained page, or as a file: no network, no script from elsewhere, the same bytes every time.

Answers: which sections does the page of this record have, in which order?
Does not answer: how a figure is drawn (the figure modules) or how the page looks (the templates).
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from unstick import __version__
from unstick.critical.escaping import Escape
from unstick.critical.layers import CurvatureByLayer, LayeredEnds, LayerMass
from unstick.critical.point import Point
from unstick.critical.taylor import Profile
from unstick.diagnosis.diagnosing import Diagnosis
from unstick.diagnosis.portrait import Portrait
from unstick.diagnosis.stall import StalledRun
from unstick.landscape.plane import Plane
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
from unstick.report.gallery_figures import (
    alarms_table,
    confusion_figure,
    unsticking_table,
    wrong_table,
)
from unstick.report.knobs import members_table
from unstick.report.layer_figures import blocks_figure, mass_figures, signal_figures
from unstick.report.loss_figures import escape_figure, history_figure, line_figures, run_figure
from unstick.report.parameter_figures import gradient_figure, plane_figures, share_figure
from unstick.report.population_figures import population_figures, swap_figures
from unstick.report.serialization import to_json
from unstick.report.spectrum_figures import (
    Curvatures,
    curvatures_of,
    negative_end_figure,
    spectrum_figure,
)
from unstick.report.story import story_of
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
from unstick.studies.gallery.measuring import GalleryResult
from unstick.training.averaging import Swapped
from unstick.training.loop import Trained
from unstick.training.population import Population
from unstick.training.signals import SignalByLayer

__all__ = ["save", "to_html"]

TRIED = ("do", "tried", "tried too", "not tried")
"""Facts that sections of their own tell where something was tried."""


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

    @property
    def empty(self) -> bool:
        """Whether nothing is under the heading."""
        return not (self.figures or self.table or self.told or self.points)


def save(record: Record, path: str | Path) -> None:
    """Write a record as a self-contained page (``.html``) or as JSON (``.json``).

    Args:
        record: Any record of the package.
        path: Where to; the suffix says as what. A file that is there is replaced.

    Raises:
        ValueError: The suffix is neither ``.html`` nor ``.json``.
    """
    path = Path(path)
    match path.suffix.lower():
        case ".html":
            text = to_html(record)
        case ".json":
            text = to_json(record) + "\n"
        case suffix:
            raise ValueError(f'a report is .html or .json, not "{suffix}": {path}')
    path.write_text(text, encoding="utf-8", newline="\n")


def to_html(record: Record) -> str:
    """Write any record as one HTML page that needs nothing else.

    Args:
        record: Any record of the package; sections appear where there are data for them.

    Returns:
        The page, about 5 MB, nearly all of which is the plotting library. Equal records give equal pages.
    """
    story = story_of(record)
    sections = [section for section in _sections(record) if not section.empty]
    notes = list(_notes(record))
    listed = {*notes, *(point for section in sections for point in section.points)}
    drawn = [figure for section in sections for figure in section.figures]
    tried = any(figure.name == "trials" for figure in drawn)
    return _template().render(
        story=story,
        facts=[
            (label, value)
            for label, value in story.facts
            if value not in listed and not (tried and label in TRIED)
        ],
        what=type(record).__name__,
        sections=sections,
        costs=list(_costs(record)),
        notes=notes,
        specifications=_in_script([_specification(figure) for figure in drawn]),
        plotly=Markup(_plotly()) if drawn else "",  # noqa: S704 - the library as it was installed
        version=__version__,
    )


def _sections(record: Record) -> Iterable[Section]:
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


def _costs(record: Record) -> Iterable[tuple[str, Cost]]:
    match record:
        case Demonstration():
            yield from _costs(record.diagnosis)
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
            yield from _costs(record.diagnosis)
        case Swapped():
            yield "large batches", record.together.cost
            yield "workers", record.workers.cost
            yield "in all", record.cost
        case Point() | Escape() | Portrait() | CurvatureByLayer() | Trained() | Population():
            yield "in all", record.cost
        case _:
            return


def _notes(record: Record) -> Iterable[str]:
    """What was chosen on the way, and every part that is not complete."""
    match record:
        case Demonstration():
            yield from _notes(record.diagnosis)
        case Diagnosis():
            yield from _notes(record.point)
            if any(trial.outcome == "interrupted" for trial in record.trials):
                yield from _partial("the trials", "interrupted")
            if record.portrait is not None:
                yield from _notes(record.portrait)
        case StalledRun():
            yield from record.trained.notes
            yield from _notes(record.diagnosis)
        case Trained():
            yield from record.notes
            yield from _partial("the training", record.outcome)
        case Population():
            yield from record.notes
            yield from _partial("the population", record.outcome)
            for place, member in enumerate(record.members):
                yield from (f"member {place}: {note}" for note in member.notes)
        case Swapped():
            yield from _notes(record.together)
            yield from _notes(record.workers)
        case Point():
            yield from record.notes
            yield from _partial("the verdict", record.outcome)
        case GalleryResult():
            yield from _partial("the gallery", record.outcome)
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


def _specification(figure: Figure) -> dict[str, Any]:
    return {
        "name": figure.name,
        "traces": figure.traces,
        "layout": figure.layout,
        "height": figure.tall,
        "flat": figure.flat,
        "least": figure.least,
    }


def _in_script(value: object) -> Markup:
    """JSON that is safe inside a script element, whatever the strings in it say."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)  # noqa: S704 - no markup is left in it


@cache
def _plotly() -> str:
    return (files("plotly") / "package_data" / "plotly.min.js").read_text(encoding="utf-8")


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("unstick.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2")
