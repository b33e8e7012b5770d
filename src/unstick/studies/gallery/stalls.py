"""All labelled stalls.

Answers: on which trainings is a diagnosis of stalls measured?
Does not answer: on which it must find nothing wrong; that is ``healthy``.
"""

from unstick.studies.gallery.point import POINT_STALLS
from unstick.studies.gallery.scale import SCALE_STALLS
from unstick.studies.gallery.signal import SIGNAL_STALLS
from unstick.studies.gallery.stall import Stall
from unstick.studies.gallery.step import STEP_STALLS

__all__ = ["all_stalls"]


def all_stalls() -> tuple[Stall, ...]:
    """Every labelled stall; nothing is built until ``start``."""
    return (*POINT_STALLS, *SIGNAL_STALLS, *SCALE_STALLS, *STEP_STALLS)
