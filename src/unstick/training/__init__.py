"""Time: how parameters move; loop, optimizers, schedules, initialization, normalization, populations."""

from unstick.training.averaging import Swapped, swap
from unstick.training.initialization import initialize
from unstick.training.loop import Trained, train
from unstick.training.networks import network
from unstick.training.normalization import hand_over, insert_normalization, strip_normalization
from unstick.training.population import Population, train_population
from unstick.training.pretrained import load_pretrained
from unstick.training.recipe import Recipe, vary
from unstick.training.samples import Score, evaluate
from unstick.training.signals import signal_by_layer
from unstick.training.standardizing import Standardized, condition_number

__all__ = [
    "Population",
    "Recipe",
    "Score",
    "Standardized",
    "Swapped",
    "Trained",
    "condition_number",
    "evaluate",
    "hand_over",
    "initialize",
    "insert_normalization",
    "load_pretrained",
    "network",
    "signal_by_layer",
    "strip_normalization",
    "swap",
    "train",
    "train_population",
    "vary",
]
