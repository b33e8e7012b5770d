"""What a diagnosis rests on: causes, copies that were trained on, units of layers, and numbers beside their thresholds.

Answers: why this cause, what else was considered, and what was not known?
Does not answer: how the losses went one by one; a diagnosis keeps their sum.
"""

import math
from collections.abc import Iterable, Sequence

from unstick.diagnosis.cause import HEALTHY, Cause
from unstick.diagnosis.course import Course
from unstick.diagnosis.diagnosing import Diagnosis
from unstick.diagnosis.evidence import Evidence, Outcome, Steps
from unstick.diagnosis.rules import LEARNED, MATTERS, PACE, SPIKE
from unstick.diagnosis.signals import LayerState, Signals
from unstick.record import number
from unstick.report.figures import (
    Figure,
    Table,
    Trace,
    amount,
    axis,
    counted,
    figure_layout,
    label,
    numbers,
)
from unstick.report.layer_figures import largest, left_out, named_axis, row_height

__all__ = [
    "INPUTS",
    "SHRINKAGE",
    "TARGETS",
    "arms_figure",
    "causes_lead",
    "causes_table",
    "others_told",
    "units_figure",
    "values_table",
]

CUT = 2.0
"""A copy that lost more than so many times the best gain is cut off, and the number says how much it lost."""

INPUTS = (0.02, 20.0)
"""Sizes of inputs inside which the rules find nothing wrong."""

TARGETS = 20.0
"""The size of targets from which on the rules look whether outputs get there."""

SHRINKAGE = 3e-3
"""What is left of the gradient on its way back, below which the rules call it vanished."""

SCALE = [[0.0, "@card"], [1.0, "@down"]]

PROVED = "the proof above"
"""Instead of a proof that the page has just told."""

SHARES = ("dead", "copies", "saturated")

Row = tuple[str, str, str]
"""What was measured, the number, and what it is held against."""


def causes_lead(cause: Cause) -> str:
    """What the ranking means, in a sentence or two."""
    if cause == Cause.UNDECIDED:
        return "Nothing that was measured decides it."
    ranks = (
        "Strength 1 is proved, 0.9 and more is measured, 0.5 fits. A cause stands before what it explains, even "
        "where that is stronger."
    )
    return (
        f"You are fine: nothing is wrong with this training. {ranks}" if cause in HEALTHY else ranks
    )


def causes_table(told: Diagnosis, *, said: str = "") -> Table:
    """The causes in their order, with what speaks for each.

    Args:
        told: The diagnosis.
        said: The proof where the reader has just seen it.
    """
    rows = [
        (
            str(cause.cause),
            "–" if cause.cause == Cause.UNDECIDED else f"{cause.strength:.2f}",
            "\n".join(PROVED if reason == said else reason for reason in cause.reasons),
        )
        for cause in told.causes
    ]
    return Table(("cause", "strength", "what speaks for it"), tuple(rows), wraps=True)


def others_told(told: Diagnosis) -> str:
    """A sentence with the causes that no rule found anything for."""
    found = {cause.cause for cause in told.causes} | {Cause.UNDECIDED}
    others = [str(cause) for cause in Cause if cause not in found]
    known = ", ".join(others)
    return f"Considered too, and no rule fits what was measured: {known}." if others else ""


def arms_figure(evidence: Evidence) -> Figure | None:
    """What each copy gained that was trained on from here; nothing where none was."""
    arms = list(evidence.arms.items())[::-1]  # the first one on top
    if not arms:
        return None
    level = evidence.level * MATTERS
    gains = [arm.gain for _, arm in arms if math.isfinite(arm.gain)]
    best = max([*gains, level])
    reach = best if best > 0 else max(map(abs, gains), default=0.0) or 1.0
    low = max(min([0.0, *gains]), -CUT * reach)
    shown = [max(arm.gain, low) if math.isfinite(arm.gain) else 0.0 for _, arm in arms]
    bars: Trace = {
        "type": "bar",
        "orientation": "h",
        "x": numbers(shown),
        "y": [label(name) for name, _ in arms],
        "marker": {"color": [_color(name, arm, level) for name, arm in arms]},
        "text": [_gain_told(arm, low) for _, arm in arms],
        "textposition": "outside",
        "textangle": 0,
        "cliponaxis": False,
        "customdata": [_arm_told(arm) for _, arm in arms],
        "hovertemplate": "%{y}<br>%{customdata}<extra></extra>",
    }
    layout = figure_layout(
        showlegend=False,
        xaxis=axis("loss before − loss after", range=_range(low, reach)),
        yaxis=named_axis([name for name, _ in arms]),
        bargap=0.35,
    )
    matters = ""
    if level > 0:
        line = {"color": "@predicted", "width": 1.5, "dash": "dot"}
        place = {"xref": "x", "yref": "paper", "x0": level, "x1": level, "y0": 0, "y1": 1}
        layout["shapes"] = [{"type": "line", "line": line, **place}]
        whole = "the way from nothing learned" if evidence.level_known else "the present loss"
        matters = f" Dotted: {MATTERS:.0%} of {whole}; rules count a gain from about there on."
    cut = " Cut off (◂): copies whose loss rose further than the axis reaches." * any(
        gain < low for gain in gains
    )
    caption = (
        "Copies of the model and its optimizer, trained on from here, unchanged (gray) and with one setting changed "
        f"each, in loss of all the data: to the right it fell.{_updates_told(evidence.arms)}{matters}{cut}"
        f"{_broken_told(evidence.arms)}"
    )
    return Figure("arms", _arms_title(evidence), caption, [bars], layout, tall=row_height(arms))


def units_figure(layers: Sequence[LayerState]) -> Figure | None:
    """Which share of each hidden layer's units is dead, a copy, or saturated; nothing without layers."""
    if not layers:
        return None
    shares = [[getattr(layer, share) for share in SHARES] for layer in layers]
    rows = largest([max(each) for each in shares])
    seen = [layers[at].name for at in rows]
    names = [
        name if seen.count(name) == 1 else f"{name} ({at + 1})"
        for name, at in zip(seen, rows, strict=True)
    ]  # a layer that is called twice
    heat: Trace = {
        "type": "heatmap",
        "x": list(SHARES),
        "y": [label(name) for name in names],
        "z": [numbers(shares[at]) for at in rows],
        "text": [[f"{share:.0%}" for share in shares[at]] for at in rows],
        "texttemplate": "%{text}",
        "customdata": [[f"{layers[at].units:,} units"] * len(SHARES) for at in rows],
        "zmin": 0,
        "zmax": 1,
        "colorscale": SCALE,
        "xgap": 2,
        "ygap": 2,
        "showscale": False,
        "hovertemplate": "%{y}: %{customdata}<br>%{x} %{z:.2%}<extra></extra>",
    }
    layout = figure_layout(
        xaxis=axis("", type="category", showgrid=False, side="top"),
        yaxis=named_axis(names),
        margin={"l": 64, "r": 16, "t": 44, "b": 16},
    )
    caption = (
        "Hidden layers in the order of the forward pass, from above. Dead: units that pass no gradient back for any "
        "sample, a cause from 95 % on. Copies: units whose outputs equal another one's, from 90 %. Saturated: outputs "
        f"where the activation behind them is flat, from 60 %.{left_out(layers, rows)}"
    )
    return Figure("units", _units_title(layers), caption, [heat], layout, tall=row_height(rows))


def values_table(evidence: Evidence) -> Table | None:
    """Each number with what it is held against; nothing where neither run, optimizer nor signals were read."""
    rows: list[Row] = []
    if evidence.course is not None:
        rows += _of_course(evidence.course, evidence)
    if evidence.steps is not None:
        rows += _of_steps(evidence.steps, evidence)
    if evidence.signals is not None:
        rows += _of_signals(evidence.signals)
    if evidence.restarts is not None:
        told = f"{amount(evidence.loss)} here; lower by {amount(MATTERS * evidence.level)} counts"
        rows.append(("lowest loss of restarts", amount(evidence.restarts), told))
    if not rows:
        return None
    header = ("measured", "number", "held against")
    return Table(header, (_of_loss(evidence), *rows), wraps=True)


def _of_loss(e: Evidence) -> Row:
    if not e.level_known:
        return ("loss", amount(e.loss), "not known what it is where nothing is learned")
    told = (
        f"{amount(e.level + e.bound)} where nothing is learned, {amount(e.bound)} at the best: {e.stuck:.1%} of the way "
        f"is left, and below {LEARNED:.0%} the task counts as learned"
    )
    return ("loss", amount(e.loss), told)


def _of_course(course: Course, e: Evidence) -> Iterable[Row]:
    known = f"{course.updates:,} losses were given"
    if course.blew_up:
        broken = f"the loss is finite up to here; {known}"
        yield ("last finite update", f"{course.finite:,}", broken)
    elif math.isfinite(course.trend_error):
        left = max(e.loss - e.bound, 0.0)
        told = (
            f"progress: a fall of more than two errors and of {amount(PACE * left)}, which is {PACE:.0%} of what is left; "
            f"{known}"
        )
        fall = f"{amount(number(course.trend, 3))}\n± {amount(number(course.trend_error, 2))}"
        yield ("trend over the run's second half", fall, told)
    if math.isfinite(course.highest) and course.first > 0:
        told = f"{amount(SPIKE * course.first)}, {SPIKE:.0f} times the first loss"
        yield ("highest single loss", amount(course.highest), told)
    if math.isfinite(course.scatter):
        told = "0.5 to 0.67 is noise, near 1 swings to and fro"
        yield ("share of updates where the loss turns", f"{course.swings:.2f}", told)


def _of_steps(steps: Steps, e: Evidence) -> Iterable[Row]:
    highest = f"highest that is known: {amount(steps.highest_rate)}"
    yield (f"learning rate ({steps.optimizer})", amount(steps.rate), highest)
    tried = e.arms.get("momentum")
    told = "0.9, tried on a copy" if tried else "nothing: no copy was tried with another"
    yield ("momentum", amount(steps.momentum), told)
    if steps.sharpness is not None:
        told = "1: above it a plain step swings wider and wider along the sharpest direction"
        yield ("sharpness η·λmax / (2 + 2μ)", amount(steps.sharpness), told)
    batch = f"{steps.batch_size:,}"
    if e.noise_scale is None:
        yield ("batch size", batch, "the noise of the gradient was not measured")
    else:
        told = f"noise scale {amount(e.noise_scale)}: samples at which noise is as long as the gradient"
        yield ("batch size", batch, told)
    if steps.clip_norm is not None:
        told = f"gradient norm {amount(e.point.gradient_norm)} here, of all the data"
        yield ("gradients are clipped to", amount(steps.clip_norm), told)
    decay = max(steps.coupled, steps.decoupled)
    if decay:
        alone = e.without_decay
        told = "too little beside the data's own gradient to be looked at"
        if alone is not None:
            pays, held = (max(p.curvature_decrease, p.slope_decrease) for p in (alone, e.point))
            told = f"a step lowers the loss of the data alone by {amount(pays)}, with the decay by {amount(held)}"
        elif steps.decoupled:
            told = "it does not go through the gradient"
        yield ("weight decay", amount(decay), told)


def _of_signals(s: Signals) -> Iterable[Row]:
    if s.shrinkage is not None:
        told = f"{amount(SHRINKAGE)}: below it the gradient counts as vanished"
        yield ("gradient at the first layer over the last", amount(s.shrinkage), told)
    if s.still:
        told = f"{len(s.stays_still)} still when nudged, {len(s.always_still)} at random parameters too"
        yield ("tensors without any gradient", f"{len(s.still)}", told)
    if s.input_size is not None:
        low, high = map(amount, INPUTS)
        yield (
            "size of inputs",
            amount(s.input_size),
            f"{low} to {high}; layers are made for about 1",
        )
    if s.target_size is not None:
        told = f"{amount(TARGETS)}, from where on outputs must reach a third of it"
        yield ("size of targets", amount(s.target_size), told)
        if s.output_size is not None:
            yield ("size of outputs", amount(s.output_size), "the size of the targets")
    if s.outputs_are_shares:
        takes = "takes" if s.loss_takes_scores else "does not take"
        yield ("outputs", "shares", f"they sum to 1, and the loss {takes} them for scores")
    if s.outputs_constant:
        yield ("outputs", "constant", "they should differ between samples")
    if s.outputs_one_sided:
        yield ("outputs", "none negative", "many targets are")


def _color(name: str, arm: Outcome, level: float) -> str:
    if name == "continue":
        return "@noise"
    return "@down" if arm.gain < 0 else "@escape" if arm.gain >= level else "@measured"


def _gain_told(arm: Outcome, low: float) -> str:
    if not math.isfinite(arm.gain):
        return "✕ blew up"
    return f"{'◂ ' if arm.gain < low else ''}{amount(number(arm.gain, 3))}"


def _arm_told(arm: Outcome) -> str:
    updates = counted(arm.updates, "update")
    if not math.isfinite(arm.gain):
        return f"blew up by update {arm.updates:,}"
    data = (
        ""
        if arm.data_gain == arm.gain
        else f"<br>loss of the data alone by {amount(arm.data_gain)}"
    )
    return f"{updates}, loss {amount(arm.loss)} afterwards, lower by {amount(arm.gain)}{data}"


def _updates_told(arms: dict[str, Outcome]) -> str:
    lengths = {arm.updates for arm in arms.values() if math.isfinite(arm.gain)}
    if len(lengths) < 2:
        return f" {counted(max(lengths), 'update')} each." if lengths else ""
    return f" {min(lengths):,} to {max(lengths):,} updates: fewer where a batch is larger."


def _broken_told(arms: dict[str, Outcome]) -> str:
    broken = [
        f"{name} by update {arm.updates:,}"
        for name, arm in arms.items()
        if not math.isfinite(arm.gain)
    ]
    return f" Blew up (✕): {', '.join(broken)}." if broken else ""


def _arms_title(evidence: Evidence) -> str:
    gains = {name: arm.gain for name, arm in evidence.arms.items() if math.isfinite(arm.gain)}
    if not gains:
        return "Every copy that was trained on blew up"
    best = max(gains, key=lambda name: gains[name])
    if gains[best] < MATTERS * evidence.level or gains[best] <= 0:
        return "No copy that was trained on gained anything that matters"
    how = "goes on unchanged" if best == "continue" else f"has “{best}”"
    return f"The copy that {how} gained the most: {amount(number(gains[best], 3))}"


def _units_title(layers: Sequence[LayerState]) -> str:
    share, worst = max(
        ((share, layer) for share in SHARES for layer in layers),
        key=lambda pair: getattr(pair[1], pair[0]),
    )
    most = getattr(worst, share)
    if most < 0.005:
        return "No unit is dead, a copy or saturated"
    counted_in = "outputs" if share == "saturated" else "units"
    return f"Layer {worst.name}: {most:.0%} of its {counted_in} are {share}"


def _range(low: float, reach: float) -> list[float]:
    """The axis, with room for numbers beside the bars."""
    air = 0.5 * (reach - low)
    return [low - (air if low < 0 else 0.02 * reach), reach + air]
