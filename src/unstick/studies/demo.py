"""The demonstration: a real training that stands still, its diagnosis, the escape, and the training after it.

Answers: does all of this work on real data, on this machine, now?
Does not answer: how often training gets stuck this way.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn
from torch.optim import SGD

from unstick.critical.curvature import Progress
from unstick.critical.escaping import Escape, escape
from unstick.data.loading import load
from unstick.diagnosis.diagnosing import Diagnosis, diagnose
from unstick.errors import BadData
from unstick.problem.problem import Problem
from unstick.record import Fact, Record, number
from unstick.trace import RunTrace
from unstick.training.loop import Trained, train
from unstick.training.recipe import Recipe
from unstick.training.samples import Samples, evaluate

__all__ = ["WAYS", "Demonstration", "Way", "demonstrate", "zero_start"]


@dataclass(frozen=True, slots=True)
class Way:
    """How the demonstration trains on a data set."""

    widths: tuple[int, int, int]
    learning_rate: float
    batch_size: int | None  # None: all samples in every update
    patience: int  # epochs without progress after which training stands still
    limit: int  # updates until then, at most
    most: int  # updates after the escape, at most
    goal: float  # training accuracy at which to stop


WAYS = {
    "digits": Way((64, 64, 10), 0.1, None, 300, 6000, 4000, 0.98),
    "mnist": Way((784, 128, 10), 0.5, 500, 2, 3600, 2400, 0.96),
    "fashion-mnist": Way((784, 128, 10), 0.1, 500, 2, 3600, 2400, 0.85),
}
LOSS = nn.CrossEntropyLoss()
STANDSTILL = 1e-4  # relative decrease of an epoch's mean loss that counts as progress


@dataclass(frozen=True, slots=True, eq=False)
class Demonstration(Record):
    """A stalled training, why it stalled, and how it went on."""

    data: str
    model: str  # such as "64-64-10 tanh"
    parameters: int
    samples: int
    diagnosis: Diagnosis
    moved: Escape  # the escape that was made
    stalled: RunTrace  # losses until training stood still
    resumed: RunTrace  # losses after the escape, same optimizer
    accuracy_stalled: float  # on the training samples
    accuracy_resumed: float
    test_accuracy: float  # after all, on samples never trained on
    seconds: float

    def headline(self) -> str:
        """From where to where."""
        return (
            f"Stuck at accuracy {self.accuracy_stalled:.2f} on a {self.diagnosis.point.kind}; "
            f"unstuck, and trained on to {self.accuracy_resumed:.3f}."
        )

    def facts(self) -> list[Fact]:
        """The run, then the diagnosis."""
        updates, more = len(self.stalled.loss), len(self.resumed.loss)
        facts = [
            (
                "training",
                f"{self.model} on {self.data}, {self.samples:,} samples, every weight zero at the start",
            ),
            ("stalled", f"after {updates:,} updates, loss {number(self.moved.loss_before)}"),
            ("escape", f"{self.moved.outcome}: loss {number(self.moved.loss_after)}"),
            (
                "trained on",
                f"{more:,} updates, same optimizer: accuracy {self.accuracy_resumed:.3f}",
            ),
            ("test accuracy", f"{self.test_accuracy:.3f}"),
            ("took", f"{self.seconds:.0f} s"),
        ]
        return facts + [fact for fact in self.diagnosis.facts() if fact[0] not in ("escape", "how")]


def zero_start(widths: tuple[int, int, int]) -> nn.Sequential:
    """A tanh network with one hidden layer and every weight and bias zero: an exact saddle for the weights."""
    inputs, hidden, outputs = widths
    model = nn.Sequential(nn.Linear(inputs, hidden), nn.Tanh(), nn.Linear(hidden, outputs))
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    return model


def demonstrate(
    *,
    data: str = "digits",
    folder: str | Path | None = None,
    budget: float = 500,
    seed: int = 0,
    pictures: bool = True,
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
) -> Demonstration:
    """Train from zero until nothing moves, diagnose, escape, and train on with the same optimizer.

    Args:
        data: ``digits`` (64-64-10, full batches) or ``mnist`` (784-128-10, batches of 500, all 60,000 images).
        folder: Where the MNIST files lie; else they are downloaded.
        budget: Most work for verdict and escape, in full-data gradients.
        seed: Seed of batches and of everything random in the diagnosis.
        pictures: Compute the report's pictures too.
        progress: Called with (stage, done, total).
        say: Called with a line for people at each stage.

    Raises:
        BadData: No such demonstration, or data that cannot be had.

    Cost:
        About 5 s on two cores for digits, a minute for mnist.
    """
    if data not in WAYS:
        raise BadData(f"no demonstration on {data!r}; there are {', '.join(WAYS)}")
    begin = time.perf_counter()
    tell = say or (lambda _line: None)
    way = WAYS[data]
    samples = load(data, folder=folder)
    inputs, targets = samples.train_inputs.flatten(1), samples.train_targets
    model = zero_start(way.widths)
    training = _Training(model, (inputs, targets), way, seed, progress)
    name = "-".join(map(str, way.widths)) + " tanh"
    tell(f"Training a {name} network on {len(inputs):,} samples of {data}, every weight zero …")
    stalled = training.until_it_stands_still()
    accuracy_stalled = training.accuracy()
    tell(
        f"It stands still after {len(stalled.loss):,} updates: loss {stalled.loss[-1]:.3f}, accuracy {accuracy_stalled:.2f}."
    )
    problem = Problem(model, (inputs, targets), LOSS, seed=seed)
    tell(
        f"Diagnosing: one gradient of all samples takes about {problem.price(1):.2g} s, the budget is {budget:g} …"
    )
    diagnosis = diagnose(problem, budget=budget, seed=seed, pictures=pictures, progress=progress)
    tell(diagnosis.headline())
    moved = escape(problem, point=diagnosis.point, budget=budget, seed=seed, progress=progress)
    tell(moved.headline())
    resumed = training.until_accurate()
    accuracy = training.accuracy()
    tell(
        f"Trained on for {len(resumed.loss):,} updates with the same optimizer: accuracy {accuracy:.3f}."
    )
    return Demonstration(
        data=data,
        model=name,
        parameters=problem.n,
        samples=len(inputs),
        diagnosis=diagnosis,
        moved=moved,
        stalled=stalled,
        resumed=resumed,
        accuracy_stalled=accuracy_stalled,
        accuracy_resumed=accuracy,
        test_accuracy=training.accuracy((samples.test_inputs.flatten(1), samples.test_targets)),
        seconds=time.perf_counter() - begin,
    )


class _Training:
    """Plain SGD, the same optimizer before and after the escape."""

    def __init__(
        self,
        model: nn.Module,
        data: tuple[Tensor, Tensor],
        way: Way,
        seed: int,
        progress: Progress | None,
    ) -> None:
        self._model, self._way, self._seed, self._progress = model, way, seed, progress
        self._samples = Samples(data, model)
        self._optimizer = SGD(model.parameters(), way.learning_rate)

    def until_it_stands_still(self) -> RunTrace:
        """Train until no epoch's mean loss of the last ``patience`` epochs was lower than before."""
        way = self._way
        recipe = Recipe(
            batch_size=way.batch_size,
            updates=way.limit,
            patience=way.patience,
            improvement=STANDSTILL,
            seed=self._seed,
        )
        return self._go(recipe).trace

    def until_accurate(self) -> RunTrace:
        """Train to the accuracy wanted, for the most updates, or until Ctrl-C."""
        trace, parts = RunTrace(), 20
        for part in range(parts):
            if self._progress is not None:
                self._progress("training on", part, parts)
            updates, seed = self._way.most // parts, self._seed + 1 + part
            told = self._go(Recipe(batch_size=self._way.batch_size, updates=updates, seed=seed))
            trace.extend(told.trace)
            if told.outcome != "done" or self.accuracy() >= self._way.goal:
                break
        return trace

    def accuracy(self, data: tuple[Tensor, Tensor] | None = None) -> float:
        """Share of samples, by default those trained on, whose largest output is the target's."""
        score = evaluate(self._model, self._samples if data is None else data, LOSS)
        return score.accuracy or 0.0

    def _go(self, recipe: Recipe) -> Trained:
        return train(self._model, self._samples, LOSS, recipe, optimizer=self._optimizer)
