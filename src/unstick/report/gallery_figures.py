"""What the diagnosis made of the gallery: which cause it took for which, and where it was wrong.

Answers: which causes are told apart, which are confused, and which healthy training raised an alarm?
Does not answer: how it does on other trainings.
"""

import math
from collections import Counter

from unstick.diagnosis.cause import HEALTHY, Cause
from unstick.record import number
from unstick.report.figures import Figure, Table, Trace, axis, counted, figure_layout
from unstick.studies.gallery.measuring import Case, GalleryResult

__all__ = ["alarms_table", "confusion_figure", "unsticking_table", "wrong_table"]

HEALTHY_ROW = "healthy"

PALEST = 0.25
"""The shade of a single case in a long row."""

NOTHING = "nothing"
"""A case without any cause found."""

SCALE = [[0.0, "@down"], [0.5, "@card"], [1.0, "@escape"]]

ORDER = {str(cause): place for place, cause in enumerate(Cause)}


def confusion_figure(told: GalleryResult) -> Figure | None:
    """How often each cause was found first, for each that was right; nothing without cases."""
    pairs = Counter((_expected(case), _first(case)) for case in (*told.stalls, *told.healthy))
    right = Counter(
        (_expected(case), _first(case)) for case in (*told.stalls, *told.healthy) if case.right
    )
    if not pairs:
        return None
    rows = sorted({wanted for wanted, _ in pairs}, key=_place)
    columns = sorted({found for _, found in pairs}, key=_place)
    totals = Counter[str]()
    for (wanted, _), count in pairs.items():
        totals[wanted] += count
    cells = [
        [
            _shade(2 * right[wanted, found] - pairs[wanted, found], totals[wanted])
            for found in columns
        ]
        for wanted in rows
    ]
    heat: Trace = {
        "type": "heatmap",
        "x": columns,
        "y": rows,
        "z": cells,
        "text": [[f"{pairs[w, f]}" if pairs[w, f] else "" for f in columns] for w in rows],
        "texttemplate": "%{text}",
        "zmin": -1,
        "zmax": 1,
        "colorscale": SCALE,
        "xgap": 2,
        "ygap": 2,
        "showscale": False,
        "hovertemplate": "was %{y}<br>found %{x}: %{text}<extra></extra>",
    }
    layout = figure_layout(
        xaxis=axis("found first", type="category", showgrid=False, side="top", tickangle=-90),
        yaxis=axis("", type="category", showgrid=False, autorange="reversed", dtick=1),
        margin={"l": 64, "r": 16, "t": 16, "b": 16},
    )
    layout["xaxis"]["dtick"] = 1
    cases = counted(len(told.stalls) + len(told.healthy), "training")
    caption = (
        f"{cases}: what each was, down, and the cause that was found first, across. Green: right; red: wrong; "
        "the stronger, the more of its row. A training of which several causes are right stands with the first of them."
    )
    title = "Which cause was taken for which"
    return Figure(
        "confusion",
        title,
        caption,
        [heat],
        layout,
        tall=220 + 26 * len(rows),
        least=190 + 28 * len(columns),
    )


def wrong_table(told: GalleryResult) -> Table | None:
    """Every stall of which another cause came first; nothing where all were right."""
    rows = [
        (
            case.name,
            f"{case.seed}",
            " or ".join(case.accepted),
            _first(case),
            ", ".join(case.found[1:3]) or "–",
        )
        for case in told.stalls
        if not case.right
    ]
    return Table(("training", "seed", "was", "found first", "then"), tuple(rows)) if rows else None


def unsticking_table(told: GalleryResult) -> Table | None:
    """What each stall came to after its best remedy, beside its repair and other choices; nothing where none was tried."""
    rows = [
        (
            case.name,
            f"{case.seed}",
            u.remedy or "none helped",
            "yes" if u.unstuck else "no",
            *(_reached(loss) for loss in (u.stalled, u.remedied, u.repaired)),
            _reached(u.constant),
            _reached(u.at_random),
        )
        for case in sorted(told.stalls, key=lambda case: _unstuck(case))
        if (u := case.unsticking) is not None
    ]
    header = ("training", "seed", "best remedy", "unstuck", "stalled at", "with it", "repaired")
    return Table((*header, "constant answer", "best at random"), tuple(rows)) if rows else None


def _unstuck(case: Case) -> bool:
    return case.unsticking is not None and case.unsticking.unstuck


def _reached(loss: float) -> str:
    return number(loss) if math.isfinite(loss) else "–"


def alarms_table(told: GalleryResult) -> Table | None:
    """Every healthy training that was not called healthy; nothing where all were."""
    rows = [
        (
            case.name,
            f"{case.seed}",
            case.stage,
            _first(case),
            "false alarm" if case.alarm else "left open",
            ", ".join(case.found[1:3]) or "–",
        )
        for case in sorted(told.healthy, key=lambda case: not case.alarm)
        if not case.right
    ]
    header = ("training", "seed", "stage", "found first", "", "then")
    return Table(header, tuple(rows)) if rows else None


def _shade(balance: int, total: int) -> float | None:
    """Right minus wrong as a part of a row, with one in hundreds still to be seen."""
    share = PALEST + (1 - PALEST) * abs(balance) / total
    return math.copysign(share, balance) if balance else None


def _expected(case: Case) -> str:
    return HEALTHY_ROW if case.accepted == HEALTHY else str(case.accepted[0])


def _first(case: Case) -> str:
    return str(case.found[0]) if case.found else NOTHING


def _place(name: str) -> int:
    """Healthy first, then in the order of the causes."""
    return -1 if name == HEALTHY_ROW else ORDER.get(name, len(ORDER))
