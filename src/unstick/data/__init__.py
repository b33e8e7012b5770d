"""Data sets: embedded, from a folder, or by download."""

from unstick.data.dataset import Dataset
from unstick.data.loading import NAMES, load

__all__ = ["NAMES", "Dataset", "load"]
