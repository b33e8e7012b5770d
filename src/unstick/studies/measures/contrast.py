"""Differences within an arm, beside those between arms.

Answers: by how much do two numbers of one arm differ, seed by seed?
Does not answer: how two arms differ; that is ``frame.paired``.
"""

from unstick.studies.frame.comparing import Effect, paired
from unstick.studies.frame.table import Row, Table

__all__ = ["within"]


def within(
    table: Table, arm: str, first: str, second: str, *, name: str = "", comparisons: int = 1
) -> Effect:
    """The mean of first − second over the seeds of an arm, with Student's interval.

    Args:
        table: What was measured.
        arm: Which arm.
        first: A measure.
        second: Another.
        name: What to call it.
        comparisons: As for ``frame.paired``.

    Example:
        >>> rows = tuple(Row("a", seed, {"x": 3.0, "y": 1.0}, 0.0) for seed in range(2))
        >>> effect = within(Table(rows, ("a",), {}), "a", "x", "y")
        >>> effect.difference, effect.low, effect.high
        (2.0, 2.0, 2.0)
    """
    rows = tuple(
        Row(measure, row.seed, {"value": row.values[measure]}, 0.0)
        for row in table.rows
        if row.arm == arm
        for measure in (first, second)
        if measure in row.values
    )
    turned = Table(rows, (first, second), {})
    title = name or f"{arm}: {first} − {second}"
    return paired(turned, "value", first, second, name=title, comparisons=comparisons)
