"""Find out why a neural network's training is stuck, prove it, and get it moving.

The names below are imported on first use, so ``import unstick`` costs next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from unstick import data, errors, training
    from unstick.critical.classifying import classify
    from unstick.critical.curvature import curvature_ends, spectral_density
    from unstick.critical.escaping import Escape, escape
    from unstick.critical.finding import find_critical_point, find_critical_points
    from unstick.critical.found import Found, Search
    from unstick.critical.layers import (
        CurvatureByLayer,
        LayeredEnds,
        LayerMass,
        curvature_by_layer,
        layer_mass,
        layered_ends,
    )
    from unstick.critical.planning import Plan, plan_curvature, plan_verdict
    from unstick.critical.point import Kind, Point
    from unstick.diagnosis.diagnosing import Diagnosis, diagnose
    from unstick.diagnosis.run import Run
    from unstick.diagnosis.searching import search_critical_points
    from unstick.diagnosis.trajectory import Trajectory, trajectory
    from unstick.diagnosis.treating import treat
    from unstick.diagnosis.trials import Trial
    from unstick.errors import UnstickError
    from unstick.landscape.convexity import Convexity, convexity
    from unstick.landscape.directions import axes, random_direction
    from unstick.landscape.interpolation import Interpolation, interpolate
    from unstick.landscape.line import Line
    from unstick.landscape.plane import Plane, scan
    from unstick.landscape.sharpness import Sharpness, sharpness
    from unstick.landscape.survey import Survey, survey
    from unstick.landscape.trajectory import trajectory_plane
    from unstick.problem.problem import Problem
    from unstick.report.page import save
    from unstick.report.serialization import load
    from unstick.spectrum.density import Density
    from unstick.spectrum.ends import Ends
    from unstick.spectrum.storage import Storage
    from unstick.trace import RunTrace
    from unstick.training.loop import Trained, train
    from unstick.training.population import Population, train_population
    from unstick.training.recipe import Recipe, vary

__all__ = [
    "Convexity",
    "CurvatureByLayer",
    "Density",
    "Diagnosis",
    "Ends",
    "Escape",
    "Found",
    "Interpolation",
    "Kind",
    "LayerMass",
    "LayeredEnds",
    "Line",
    "Plan",
    "Plane",
    "Point",
    "Population",
    "Problem",
    "Recipe",
    "Run",
    "RunTrace",
    "Search",
    "Sharpness",
    "Storage",
    "Survey",
    "Trained",
    "Trajectory",
    "Trial",
    "UnstickError",
    "__version__",
    "axes",
    "classify",
    "convexity",
    "curvature_by_layer",
    "curvature_ends",
    "data",
    "diagnose",
    "errors",
    "escape",
    "find_critical_point",
    "find_critical_points",
    "interpolate",
    "layer_mass",
    "layered_ends",
    "load",
    "plan_curvature",
    "plan_verdict",
    "random_direction",
    "save",
    "scan",
    "search_critical_points",
    "sharpness",
    "spectral_density",
    "survey",
    "train",
    "train_population",
    "training",
    "trajectory",
    "trajectory_plane",
    "treat",
    "vary",
]

__version__ = "0.1.0"

_PLACES = {
    "Convexity": "unstick.landscape.convexity",
    "CurvatureByLayer": "unstick.critical.layers",
    "Density": "unstick.spectrum.density",
    "Diagnosis": "unstick.diagnosis.diagnosing",
    "Ends": "unstick.spectrum.ends",
    "Escape": "unstick.critical.escaping",
    "Found": "unstick.critical.found",
    "Interpolation": "unstick.landscape.interpolation",
    "Kind": "unstick.critical.point",
    "LayerMass": "unstick.critical.layers",
    "LayeredEnds": "unstick.critical.layers",
    "Line": "unstick.landscape.line",
    "Plan": "unstick.critical.planning",
    "Plane": "unstick.landscape.plane",
    "Point": "unstick.critical.point",
    "Population": "unstick.training.population",
    "Problem": "unstick.problem.problem",
    "Recipe": "unstick.training.recipe",
    "Run": "unstick.diagnosis.run",
    "RunTrace": "unstick.trace",
    "Search": "unstick.critical.found",
    "Sharpness": "unstick.landscape.sharpness",
    "Storage": "unstick.spectrum.storage",
    "Survey": "unstick.landscape.survey",
    "Trained": "unstick.training.loop",
    "Trajectory": "unstick.diagnosis.trajectory",
    "Trial": "unstick.diagnosis.trials",
    "UnstickError": "unstick.errors",
    "axes": "unstick.landscape.directions",
    "classify": "unstick.critical.classifying",
    "convexity": "unstick.landscape.convexity",
    "curvature_by_layer": "unstick.critical.layers",
    "curvature_ends": "unstick.critical.curvature",
    "diagnose": "unstick.diagnosis.diagnosing",
    "escape": "unstick.critical.escaping",
    "find_critical_point": "unstick.critical.finding",
    "find_critical_points": "unstick.critical.finding",
    "interpolate": "unstick.landscape.interpolation",
    "layer_mass": "unstick.critical.layers",
    "layered_ends": "unstick.critical.layers",
    "load": "unstick.report.serialization",
    "plan_curvature": "unstick.critical.planning",
    "plan_verdict": "unstick.critical.planning",
    "random_direction": "unstick.landscape.directions",
    "save": "unstick.report.page",
    "scan": "unstick.landscape.plane",
    "search_critical_points": "unstick.diagnosis.searching",
    "sharpness": "unstick.landscape.sharpness",
    "spectral_density": "unstick.critical.curvature",
    "survey": "unstick.landscape.survey",
    "train": "unstick.training.loop",
    "train_population": "unstick.training.population",
    "trajectory": "unstick.diagnosis.trajectory",
    "trajectory_plane": "unstick.landscape.trajectory",
    "treat": "unstick.diagnosis.treating",
    "vary": "unstick.training.recipe",
}
"""The module behind each public name; a test holds it equal to the imports above."""

_MODULES = ("data", "errors", "training")


def __getattr__(name: str) -> object:
    """Import a public name on first use (PEP 562)."""
    if name in _MODULES:
        return import_module(f"unstick.{name}")
    if name not in _PLACES:
        raise AttributeError(f"module 'unstick' has no attribute {name!r}")
    value: object = getattr(import_module(_PLACES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names, imported or not yet."""
    return sorted(set(globals()) | set(__all__))
