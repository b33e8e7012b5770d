"""Data sets: embedded, generated, from a folder, by download, or a user's own."""

from unstick.data.dataset import Dataset
from unstick.data.loading import NAMES, load

__all__ = ["NAMES", "Dataset", "load"]
