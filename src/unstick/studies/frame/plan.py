"""What a study states before anything is measured.

Answers: which claim, which arms, what is measured in each, by which rule is it decided, and what is known against it?
Does not answer: what came out (``result``), or how arms are run and kept (``running``, ``store``).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from re import sub
from typing import Any

import torch
from torch import nn

from unstick.data import Dataset, load
from unstick.data.own import called
from unstick.errors import BadModel
from unstick.studies.frame.comparing import Effect, Verdict
from unstick.studies.frame.table import Table, Value
from unstick.training import network
from unstick.training.order import generator_for

__all__ = ["Arm", "Decision", "Picture", "Series", "Setting", "Study", "Task"]


@dataclass(frozen=True, slots=True)
class Setting:
    """How a study is run; equal settings and equal code give equal tables."""

    full: bool = False  # what the claim deserves, instead of at most a minute
    data: str | None = (
        None  # instead of the study's own: a name that ``data.load`` knows, or file.py:function
    )
    model: str | None = (
        None  # instead of the study's own: hidden widths, linear, conv, or file.py:function
    )
    seeds: int | None = None  # how many; None: the study's own number
    seed: int = 0  # the first of them
    data_dir: Path | None = field(default=None, compare=False)  # where data lie changes no result

    def written(self) -> dict[str, Any]:
        """What results depend on, for the header of a store."""
        scale = "full" if self.full else "quick"
        return {
            "scale": scale,
            "data": self.data,
            "model": self.model,
            "seeds": self.seeds,
            "seed": self.seed,
        }


@dataclass(frozen=True, slots=True)
class Arm:
    """One way of doing it: a name that is told, and the knobs behind it."""

    name: str
    knobs: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def __getitem__(self, knob: str) -> Any:
        """A knob by name."""
        return self.knobs[knob]


@dataclass(frozen=True, slots=True)
class Task:
    """One arm on one seed: all that its measurement may depend on."""

    arm: Arm
    seed: int
    setting: Setting

    @property
    def full(self) -> bool:
        """Whether there is time for what the claim deserves."""
        return self.setting.full

    def generator(self, purpose: str = "study") -> torch.Generator:
        """Random numbers for one purpose: the same in every arm of a seed."""
        digest = sha256(f"{purpose} {self.seed}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:7]))

    def data(self, default: str) -> Dataset:
        """The user's data, or the study's own; not standardized.

        Raises:
            BadData: They cannot be had.
        """
        return load(self.setting.data or default, folder=self.setting.data_dir)

    def network(self, default: str, data: Dataset, **building: Any) -> nn.Module:
        """The user's model, or the study's own, initialized from this task's seed.

        Args:
            default: Hidden widths such as ``64-32``, ``linear`` or ``conv``.
            data: What it is for.
            building: ``activation``, ``normalization`` and ``scheme`` of ``training.network``.

        Raises:
            BadModel: A function of the user returned something else.
        """
        spec = self.setting.model or default
        seed = generator_for("model", self.seed).initial_seed()
        if ".py:" in spec:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                made = called(spec, arguments={}, otherwise={"data_dir": None, "seed": self.seed})
            if not isinstance(made, nn.Module):
                raise BadModel(f"{spec} returned {type(made).__name__}; expected a torch.nn.Module")
            return made
        targets = data.train_targets
        outputs = data.classes or (1 if targets.ndim == 1 else targets.shape[1])
        return network(spec, data.train_inputs[0], outputs, seed=self.seed, **building)


@dataclass(frozen=True, slots=True)
class Series:
    """One line, cloud or row of bars of a picture."""

    name: str
    x: tuple[float | str, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] = ()  # of an interval about each y
    high: tuple[float, ...] = ()
    kind: str = "line"  # "line", "points" or "bars"
    # series of one group have one color; by default each has its own
    group: str = field(default="", repr=False)
    # which symbol or dash tells it from others of its color
    variant: int = field(default=0, repr=False)


@dataclass(frozen=True, slots=True)
class Picture:
    """What was measured, on the axes on which the claim is drawn; and the claim, sketched."""

    name: str
    title: str
    caption: str
    x: str
    y: str
    series: tuple[Series, ...]
    claimed: tuple[Series, ...] = ()  # the shape that the claim has, drawn beside it
    log_x: bool = False
    log_y: bool = False
    top: float | None = None  # values above it are not drawn, but counted

    @property
    def key(self) -> str:
        """The name as part of a file's name or of an address, whatever the data are called."""
        return sub(r"[^\w.]+", "-", self.name)


@dataclass(frozen=True, slots=True)
class Decision:
    """The rule applied to what was measured."""

    verdict: Verdict
    said: str  # what was found, with its numbers, in a sentence or two
    effects: tuple[Effect, ...] = ()


@dataclass(frozen=True, slots=True)
class Study:
    """A planned comparison; everything in it was fixed before it is run."""

    name: str
    claim: str  # in our own words
    source: str
    question: str
    measured: str  # what is measured, and how
    rule: str  # which outcome means supported, contradicted, inconclusive
    criticism: str  # what is known against the claim, or against this way of testing it
    arms: Callable[[Setting], Sequence[Arm]]
    measure: Callable[[Task], Mapping[str, Value]]  # of one arm on one seed
    decide: Callable[[Table], Decision]
    pictures: Callable[[Table], Sequence[Picture]]
    seeds: tuple[int, int] = (3, 10)  # quick and full
    takes: tuple[str, ...] = ()  # what a user may put in: "data", "model"
    together: Callable[[Sequence[Task]], Iterable[tuple[Task, Mapping[str, Value]]]] | None = None
    """Several tasks at once, such as a population; by default one after the other by ``measure``."""
    alone: bool = False  # measures time: nothing runs beside it, and it chooses its own threads
    place: str = ""  # file.py:name of a study that is not part of the package

    def planned(self, setting: Setting) -> list[Task]:
        """Every arm on every seed, seed after seed, so that an interrupted study is of whole seeds."""
        count = setting.seeds or self.seeds[setting.full]
        arms = self.arms(setting)
        return [Task(arm, setting.seed + k, setting) for k in range(count) for arm in arms]
