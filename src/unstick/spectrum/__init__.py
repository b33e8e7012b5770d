"""What products with a symmetric operator reveal about its spectrum; no model, no loss, no data."""

from unstick.spectrum.density import Density, density
from unstick.spectrum.ends import Ends, Pairs, Snapshot, ends
from unstick.spectrum.inertia import (
    Extremes,
    Inertia,
    ToleranceSweep,
    extreme_eigenvectors,
    inertia,
    tolerance_sweep,
)
from unstick.spectrum.interval import Interval
from unstick.spectrum.operator import DenseOperator, SymmetricOperator
from unstick.spectrum.storage import Shard, Storage
from unstick.spectrum.trace import TraceEstimate, trace

__all__ = [
    "DenseOperator",
    "Density",
    "Ends",
    "Extremes",
    "Inertia",
    "Interval",
    "Pairs",
    "Shard",
    "Snapshot",
    "Storage",
    "SymmetricOperator",
    "ToleranceSweep",
    "TraceEstimate",
    "density",
    "ends",
    "extreme_eigenvectors",
    "inertia",
    "tolerance_sweep",
    "trace",
]
