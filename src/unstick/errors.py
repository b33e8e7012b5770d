"""Every exception of the package: what was seen, what was expected, what to do."""

__all__ = [
    "BadCheckpoint",
    "BadData",
    "BadModel",
    "BadRecipe",
    "BadTarget",
    "BudgetTooSmall",
    "NonDeterministic",
    "NonFinite",
    "StaleOperator",
    "TooLittleMemory",
    "Unreadable",
    "UnstickError",
]


class UnstickError(Exception):
    """Something unusable was given, or the model produced inf or nan; the message is one clear line."""


class BadData(UnstickError):
    """The data cannot be used: empty, exhausted, misshapen, or too large to hold."""


class BadModel(UnstickError):
    """The model or the loss cannot be used: no trainable parameter, or a loss that is not a scalar."""


class BadRecipe(UnstickError):
    """A training's settings contradict one another, or are out of range."""


class NonFinite(UnstickError):
    """Data, parameters, a loss, a gradient or a Hessian product contain inf or nan."""


class NonDeterministic(UnstickError):
    """Two evaluations at the same parameters and data differ."""


class StaleOperator(UnstickError):
    """A Hessian was used after the parameters that it is bound to have changed."""


class BudgetTooSmall(UnstickError):
    """The budget does not suffice for any answer."""


class TooLittleMemory(UnstickError):
    """The work would take more memory than it was given, or than the machine has; said before any is taken."""


class BadTarget(UnstickError):
    """A ``file.py:function`` target does not exist, raises, or returns something else than a problem."""


class BadCheckpoint(UnstickError):
    """A checkpoint is not a checkpoint, or does not fit the model."""


class Unreadable(UnstickError):
    """A file is not a record of this package, or of a schema that this version does not know."""
