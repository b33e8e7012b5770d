"""What the studies of batch sizes share: data with a validation part, accuracies, the best of several rates, lines over arms.

Answers: how good is a model on each part of its data, and which of these recipes validates best?
Does not answer: what follows from that; each study says so itself.
"""

from collections.abc import Callable, Sequence
from functools import cache
from math import isfinite, nan
from pathlib import Path

from torch import nn

from unstick.data import Dataset, load
from unstick.errors import BadData
from unstick.studies.frame.plan import Series, Setting, Task
from unstick.studies.frame.table import Table
from unstick.studies.measures.classes import classified
from unstick.studies.measures.sample import loss_for
from unstick.training import Recipe, evaluate, train

__all__ = ["along", "best_of", "divided", "present", "scores"]

VALIDATION = 0.2  # of the training samples
PARTS = ("train", "validation", "test")


def present(names: Sequence[str], setting: Setting) -> tuple[str, ...]:
    """The user's data alone, or those of the named data sets that can be had without a download."""
    if setting.data is not None:
        return (setting.data,)
    return tuple(name for name in names if _there(name, setting.data_dir))


def divided(task: Task, default: str, most: int) -> Dataset:
    """At most so many training samples, a seeded fifth of them to validate on, standardized by the rest.

    Raises:
        BadData: They cannot be had, are no classes, or too few.
    """
    return classified(task, default, most).split(VALIDATION, seed=task.seed).standardized()


def scores(model: nn.Module, data: Dataset) -> dict[str, float]:
    """The accuracy on each part that the data have, and the training loss, all in eval mode."""
    found: dict[str, float] = {}
    for part in PARTS:
        inputs, targets = getattr(data, f"{part}_inputs"), getattr(data, f"{part}_targets")
        if inputs is None:
            continue
        score = evaluate(model, (inputs, targets), loss_for(data))
        found[part] = nan if score.accuracy is None else score.accuracy
        if part == "train":
            found["loss"] = score.loss
    return found


def best_of(
    recipes: Sequence[Recipe],
    build: Callable[[], nn.Module],
    data: Dataset,
    *,
    run: Callable[[nn.Module, Recipe], object] | None = None,
) -> tuple[int, list[dict[str, float]]]:
    """Train a new model under each recipe; which validates best, and the scores of all.

    Args:
        recipes: At least one.
        build: Makes the model, the same each time.
        data: With a validation part.
        run: How a recipe is run; by default ``train``.

    Returns:
        The place of the recipe with the highest validation accuracy, among equals the first.
    """
    loss = loss_for(data)
    found: list[dict[str, float]] = []
    for recipe in recipes:
        model = build()
        if run is None:
            train(model, data, loss, recipe)
        else:
            run(model, recipe)
        found.append(scores(model, data))
    validated = [each["validation"] for each in found]
    return validated.index(max(validated)), found


def along(
    name: str,
    table: Table,
    x: str,
    measure: str,
    arms: Sequence[str],
    *,
    kind: str = "line",
) -> Series:
    """A measure against another over arms: means, and the lowest and highest of the seeds.

    Arms in which either was not measured are left out.

    Example:
        >>> from unstick.studies.frame.table import Row
        >>> rows = tuple(Row("a", seed, {"B": 8, "ms": 1.0 + seed}, 0.0) for seed in range(3))
        >>> along("time", Table(rows, ("a", "b"), {}), "B", "ms", ("a", "b"))
        Series(name='time', x=(8.0,), y=(2.0,), low=(1.0,), high=(3.0,), kind='line')
    """
    known = [
        arm for arm in arms if isfinite(table.mean(x, arm)) and isfinite(table.mean(measure, arm))
    ]
    low, high = table.spread(measure, known)
    return Series(
        name,
        tuple(table.mean(x, arm) for arm in known),
        tuple(table.mean(measure, arm) for arm in known),
        tuple(low),
        tuple(high),
        kind,
    )


@cache
def _there(name: str, folder: Path | None) -> bool:
    try:
        load(name, folder=folder, download=False)
    except BadData:
        return False
    return True
