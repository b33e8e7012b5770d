"""Samples of a classification, for studies that need classes.

Answers: which samples does a study of classifiers train on?
Does not answer: which data set; that is ``Task.data``.
"""

from functools import lru_cache

from unstick.data import Dataset
from unstick.errors import BadData
from unstick.studies.frame.plan import Arm, Setting, Task
from unstick.studies.measures.sample import part

__all__ = ["classified"]


def classified(task: Task, default: str, most: int) -> Dataset:
    """At most so many training samples of the user's data, or of the study's own, standardized.

    Args:
        task: Its generator draws the samples.
        default: A name that ``data.load`` knows.
        most: Training samples.

    Raises:
        BadData: They cannot be had, or are no classes.
    """
    data = _loaded(task.setting, default)
    if not data.classes:
        raise BadData(f"{data.name} is a regression; this study needs classes: give whole targets")
    return part(data, most, task.generator("samples"))


@lru_cache(maxsize=2)
def _loaded(setting: Setting, default: str) -> Dataset:
    """Once for all arms of a process: MNIST-1D is generated anew by every call, which takes seconds."""
    return Task(Arm(""), 0, setting).data(default)
