"""Settings that an optimizer, a model or a recipe is made with, checked before anything is made.

Answers: is this a number that the formulas can take, is this a name that is known?
Does not answer: which value is a good one.
"""

from collections.abc import Iterable
from math import isfinite

from unstick.errors import BadRecipe

__all__ = ["check_below_one", "check_choice", "check_not_negative", "check_positive"]


def check_positive(**given: float) -> None:
    """Refuse numbers that are not finite and above 0.

    Raises:
        BadRecipe: Names the first such number.
    """
    for name, value in given.items():
        if not (isfinite(value) and value > 0):
            raise BadRecipe(f"{name} is {value}; expected a finite number > 0")


def check_not_negative(**given: float) -> None:
    """Refuse numbers that are not finite and at least 0.

    Raises:
        BadRecipe: Names the first such number.
    """
    for name, value in given.items():
        if not (isfinite(value) and value >= 0):
            raise BadRecipe(f"{name} is {value}; expected a finite number ≥ 0")


def check_below_one(**given: float) -> None:
    """Refuse numbers that are no part that can be kept: below 0, 1 or more.

    Raises:
        BadRecipe: Names the first such number.
    """
    for name, value in given.items():
        if not 0 <= value < 1:
            raise BadRecipe(f"{name} is {value}; expected at least 0 and below 1")


def check_choice(known: Iterable[str], **given: str) -> None:
    """Refuse what is none of the known names.

    Raises:
        BadRecipe: Names the first such setting, and what is known.
    """
    names = tuple(known)
    for name, choice in given.items():
        if choice not in names:
            raise BadRecipe(f"{name} is {choice!r}; expected one of {', '.join(names)}")
