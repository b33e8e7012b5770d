"""All settings of a training in one record.

Answers: how exactly is this model trained?
Does not answer: which model, on what data.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import product
from math import ceil, inf, isfinite
from typing import Any, Self

from unstick.errors import BadRecipe
from unstick.training.order import SHUFFLES, BatchOrder
from unstick.training.schedules import SCALINGS, SCHEDULES, Pace, scaled_rate
from unstick.training.settings import check_choice

__all__ = ["Recipe", "vary"]

WHOLE = ("batch_size", "updates", "base_batch", "patience", "rank", "seed", "warmup", "every")
"""Settings that count something."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a model is trained; every knob has a default, and ``None`` means the optimizer's own.

    Without ``epochs``, ``updates`` and ``budget`` a training lasts ten epochs; of several, the shortest counts.

    Raises:
        BadRecipe: A setting is unknown or out of range; says which.

    Example:
        >>> Recipe(optimizer="adam", batch_size=64, epochs=2).updates_for(1437)
        46
    """

    optimizer: str = "sgd"  # a name of ``OPTIMIZERS``
    lr: float | None = None
    momentum: float | None = None
    beta1: float | None = None
    beta2: float | None = None
    alpha: float | None = None  # smoothing of RMSProp's squares
    eps: float | None = None
    trust: float | None = None  # LARS's coefficient
    radius: float | None = None  # of perturbed gradient descent's noise
    rank: int | None = None  # directions of saddle-free Newton
    weight_decay: float = 0.0  # through the gradient; AdamW and LAMB's own way beside it
    batch_size: int | None = 32  # None: all samples
    shuffle: str = "epoch"  # a new order each epoch, "once", or "never"
    drop_last: bool = False
    epochs: float | None = None
    updates: int | None = None
    budget: float | None = None  # in gradients of all samples, which an epoch of updates costs
    schedule: str = "constant"
    warmup: int = 0  # updates
    warmup_from: float = 0.0  # multiple of the rate that the warm-up starts from
    every: int = 1000  # updates between the steps of "step", and over which "exponential" counts
    factor: float = 0.1  # of "step", "exponential" and "plateau"
    floor: float = 0.0  # smallest multiple of the rate
    base_batch: int | None = (
        None  # the batch size that lr was chosen for; the rate is scaled from there
    )
    scaling: str = "linear"
    clip_norm: float | None = None  # gradients longer than this are shortened to it
    average_from: float | None = (
        None  # stochastic weight averaging over the updates from this part on
    )
    target_loss: float | None = None  # stop once an epoch's mean loss is this low
    patience: int | None = None  # stop after so many epochs without a lower mean loss
    improvement: float = 1e-3  # relative decrease that counts as lower
    norms: bool = False  # record the norms of gradient and update
    seed: int = 0

    def __post_init__(self) -> None:
        for name, low, high in (
            ("lr", 0.0, None),
            ("momentum", 0.0, 1.0),
            ("beta1", 0.0, 1.0),
            ("beta2", 0.0, 1.0),
            ("alpha", 0.0, 1.0),
            ("eps", 0.0, None),
            ("weight_decay", 0.0, None),
            ("batch_size", 1, None),
            ("epochs", 0.0, None),
            ("updates", 0, None),
            ("budget", 0.0, None),
            ("base_batch", 1, None),
            ("clip_norm", 0.0, None),
            ("average_from", 0.0, 1.0),
            ("patience", 1, None),
            ("rank", 1, None),
            ("seed", 0, None),
            ("warmup", 0, None),
            ("every", 1, None),
            ("radius", 0.0, None),
            ("trust", 0.0, None),
            ("target_loss", -inf, None),
            ("improvement", 0.0, None),
        ):
            value = getattr(self, name)
            if value is None:
                continue
            kind = "a whole number" if name in WHOLE else "a number"
            if not isinstance(value, int | (int if name in WHOLE else float)):
                raise BadRecipe(f"{name} is {value!r}; expected {kind}")
            if not isfinite(value) or value < low or (high is not None and value > high):
                limit = f"at least {low:g}" if high is None else f"{low:g} to {high:g}"
                raise BadRecipe(f"{name} is {value}; expected {limit}")
        check_choice(SCHEDULES, schedule=self.schedule)
        check_choice(SHUFFLES, shuffle=self.shuffle)
        check_choice(SCALINGS, scaling=self.scaling)

    def updates_for(self, samples: int) -> int:
        """How many updates this makes on so many samples, unless it stops before."""
        size, an_epoch = self.size_of_batch(samples), self.batches_of(samples)
        limits: list[float] = []
        if self.updates is not None:
            limits.append(self.updates)
        if self.epochs is not None:
            limits.append(self.epochs * an_epoch)
        if self.budget is not None:
            limits.append(self.budget * samples / size)
        return round(min(limits)) if limits else 10 * an_epoch

    def batches_of(self, samples: int) -> int:
        """Updates of an epoch."""
        size = self.size_of_batch(samples)
        return samples // size if self.drop_last else ceil(samples / size)

    def size_of_batch(self, samples: int) -> int:
        """Samples in a batch.

        Raises:
            BadRecipe: More than there are.
        """
        size = samples if self.batch_size is None else self.batch_size
        if size > samples:
            raise BadRecipe(
                f"batch_size is {size} and there are {samples:,} samples; expected at most as many, or None for all"
            )
        return size

    def rate(self, default: float, samples: int) -> float:
        """The learning rate, scaled from ``base_batch`` where that is given."""
        rate = default if self.lr is None else self.lr
        if self.base_batch is None:
            return rate
        return scaled_rate(
            rate, self.size_of_batch(samples), base=self.base_batch, how=self.scaling
        )

    def pace(self, updates: int) -> Pace:
        """The schedule of so many updates."""
        return Pace(
            self.schedule,
            updates=updates,
            warmup=self.warmup,
            warmup_from=self.warmup_from,
            every=self.every,
            factor=self.factor,
            floor=self.floor,
            patience=self.patience or 5,
        )

    def order(self, samples: int) -> BatchOrder:
        """Which of so many samples each update sees."""
        return BatchOrder(
            samples,
            None if self.batch_size is None else self.size_of_batch(samples),
            seed=self.seed,
            shuffle=self.shuffle,
            drop_last=self.drop_last,
        )

    def given(self) -> dict[str, Any]:
        """What differs from the defaults."""
        plain = Recipe()
        return {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if getattr(self, field.name) != getattr(plain, field.name)
        }

    def __str__(self) -> str:
        """``adam, lr 0.001, batch_size 64``."""
        rest = [_told(name, value) for name, value in self.given().items() if name != "optimizer"]
        return ", ".join([self.optimizer, *rest])

    def written(self) -> dict[str, Any]:
        """All settings by name."""
        return asdict(self)

    @classmethod
    def of(cls, written: dict[str, Any]) -> Self:
        """The recipe that ``written`` wrote."""
        return cls(**written)


def vary(recipe: Recipe, **knobs: Iterable[Any]) -> tuple[Recipe, ...]:
    """A recipe for every combination of the given settings, the last knob changing fastest.

    Raises:
        BadRecipe: A knob that recipes have not.

    Example:
        >>> [(r.lr, r.seed) for r in vary(Recipe(), lr=(0.1, 1.0), seed=range(2))]
        [(0.1, 0), (0.1, 1), (1.0, 0), (1.0, 1)]
    """
    known = {field.name for field in fields(Recipe)}
    if unknown := sorted(set(knobs) - known):
        raise BadRecipe(
            f"recipes have no {', '.join(unknown)}; they have {', '.join(sorted(known))}"
        )
    values: list[Sequence[Any]] = [tuple(choices) for choices in knobs.values()]
    return tuple(
        replace(recipe, **dict(zip(knobs, chosen, strict=True))) for chosen in product(*values)
    )


def _told(name: str, value: Any) -> str:
    name = name.replace("_", " ")
    if value is True:
        return name
    if value is None:
        return f"{name} all"
    return f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"
