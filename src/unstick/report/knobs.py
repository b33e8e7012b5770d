"""In what the members of a population differ: as words, as colors, as an axis and as a table.

Answers: which settings vary, and how is each value shown?
Does not answer: what they did to the loss (``population_figures``).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from math import isfinite
from typing import Any

from unstick.report.figures import Table, Trace, amount, axis, label, log_axis
from unstick.training.loop import Trained
from unstick.training.population import Population
from unstick.training.recipe import Recipe

__all__ = [
    "LISTED",
    "Knob",
    "knob_axis",
    "knobs_of",
    "member_told",
    "members_table",
    "reached",
    "written",
]

LISTED = 8
"""Most values of a knob that a legend or an axis lists one by one."""

SOME = 5
"""Of more, a legend names so many."""

RANGE = 8.0
"""Positive values spread over this factor or a larger one get a logarithmic axis."""

SERIES = tuple(f"@series-{level}" for level in range(8))
"""Colors from the lowest number to the highest."""

KINDS = ("@measured", "@predicted", "@escape", "@down", "@noise")
"""Colors of what has no order, such as optimizers."""


@dataclass(frozen=True, slots=True)
class Knob:
    """A setting of recipes in which members differ."""

    setting: str
    values: tuple[Any, ...]  # of each member
    colors: Mapping[Any, str]  # of each value: numbers from low to high, others as they came

    @property
    def name(self) -> str:
        """What it is called in a text."""
        return self.setting.replace("_", " ")

    @property
    def numeric(self) -> bool:
        """Whether all values are numbers."""
        return all(map(_is_number, self.values))

    @property
    def legend(self) -> tuple[Any, ...]:
        """The values that a legend names: all, or some from the first to the last."""
        known, last = tuple(self.colors), len(self.colors) - 1
        some = (round(last * part / (SOME - 1)) for part in range(SOME))
        return known if len(known) <= LISTED else tuple(known[at] for at in some)


def knobs_of(told: Population) -> list[Knob]:
    """The settings that differ, in the order of ``Recipe``, in which the seed comes last."""
    found: list[Knob] = []
    for field in fields(Recipe):
        values = tuple(_value(member, field.name) for member in told.members)
        distinct = list(dict.fromkeys(values))
        if len(distinct) > 1:
            ordered = all(map(_is_number, distinct))
            colors = _colors(len(distinct), ordered=ordered)
            known = sorted(distinct) if ordered else distinct
            found.append(Knob(field.name, values, dict(zip(known, colors, strict=True))))
    return found


def written(value: Any) -> str:
    """The value of a setting as a reader sees it."""
    if value is None:
        return "default"
    return str(value) if isinstance(value, bool | str) else amount(value)


def member_told(place: int, knobs: Sequence[Knob]) -> str:
    """A member by its number and by what sets it apart, for a figure."""
    settings = ", ".join(f"{knob.name} {written(knob.values[place])}" for knob in knobs)
    return label(f"member {place}{': ' if settings else ''}{settings}")


def knob_axis(knob: Knob) -> Trace:
    """An axis with a tick at each value, or at round ones where there are many."""
    known = list(knob.colors)
    log = known[0] > 0 and known[-1] >= RANGE * known[0]
    plain = log_axis(knob.name, known[0], known[-1]) if log else axis(knob.name)
    if len(known) > LISTED:
        return plain
    ticks = {"tickmode": "array", "tickvals": known, "ticktext": [written(v) for v in known]}
    return {**plain, **ticks}


def reached(member: Trained) -> float | None:
    """The loss at the end; None where there is none that is finite."""
    loss = member.final_loss
    return loss if member.outcome != "diverged" and loss is not None and isfinite(loss) else None


def members_table(told: Population) -> Table:
    """Every member: in what its recipe differs, how it ended, how good it was; the lowest final loss first."""
    knobs = knobs_of(told)
    splits = tuple(dict.fromkeys(score.split for member in told.members for score in member.scores))
    exact = {score.split for m in told.members for score in m.scores if score.accuracy is not None}
    scored = [
        f"{split} {what}"
        for split in splits
        for what in ("loss", *(["accuracy"] if split in exact else []))
    ]
    names = [knob.name for knob in knobs]
    header = ("member", *names, "final loss", *scored, "ended", "updates")
    rows: list[tuple[str, ...]] = []
    for k in sorted(range(len(told.members)), key=lambda k: _rank(told.members[k])):
        member = told.members[k]
        end = reached(member)
        cells = [str(k), *(written(knob.values[k]) for knob in knobs)]
        cells.append("–" if end is None else amount(end))
        for split in splits:
            known = [score for score in member.scores if score.split == split]
            score = known[-1] if known else None
            cells.append("–" if score is None else amount(score.loss))
            if split in exact:
                accuracy = None if score is None else score.accuracy
                cells.append("–" if accuracy is None else f"{accuracy:.2%}")
        rows.append((*cells, member.outcome, f"{len(member.trace.loss):,}"))
    return Table(header, tuple(rows))


def _rank(member: Trained) -> tuple[bool, float]:
    end = reached(member)
    return (end is None, 0.0 if end is None else end)


def _value(member: Trained, setting: str) -> Any:
    value = getattr(member.recipe, setting)
    return member.samples if setting == "batch_size" and value is None else value


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _colors(count: int, *, ordered: bool) -> list[str]:
    if not ordered and count <= len(KINDS):
        return list(KINDS[:count])
    step = (len(SERIES) - 1) / max(1, count - 1)
    return [SERIES[round(step * rank)] for rank in range(count)]
