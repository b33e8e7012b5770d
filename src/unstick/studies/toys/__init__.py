"""Toy surfaces: the pictures of optimization in two dimensions or one, measured instead of drawn by hand."""

from unstick.studies.toys.making import TOYS, make_toy
from unstick.studies.toys.toy import Check, Chord, Cut, Ground, Spot, Taylor, Toy, Trail

__all__ = ["TOYS", "Check", "Chord", "Cut", "Ground", "Spot", "Taylor", "Toy", "Trail", "make_toy"]
