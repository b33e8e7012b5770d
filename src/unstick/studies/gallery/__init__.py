"""A gallery of labelled trainings: stalls with their causes and repairs, and healthy ones."""

from unstick.studies.gallery.healthy import STAGES, Healthy, all_healthy
from unstick.studies.gallery.measuring import Case, GalleryResult, measure_gallery
from unstick.studies.gallery.stall import Stall
from unstick.studies.gallery.stalls import all_stalls

__all__ = [
    "STAGES",
    "Case",
    "GalleryResult",
    "Healthy",
    "Stall",
    "all_healthy",
    "all_stalls",
    "measure_gallery",
]
