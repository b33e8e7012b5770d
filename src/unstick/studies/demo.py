"""The demonstration: a real training that stands still, its diagnosis, the escape, and the training after it.

Answers: does all of this work on real data, on this machine, now?
Does not answer: how often training gets stuck this way.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
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

__all__ = ["RECIPES", "Demonstration", "Recipe", "demonstrate", "zero_start"]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How the demonstration trains on a data set."""

    widths: tuple[int, int, int]
    learning_rate: float
    batch_size: int | None  # None: all samples in every update
    patience: int  # updates without progress after which training stands still
    most: int  # updates after the escape, at most
    goal: float  # training accuracy at which to stop


RECIPES = {
    "digits": Recipe((64, 64, 10), 0.1, None, 300, 4000, 0.98),
    "mnist": Recipe((784, 128, 10), 0.5, 500, 240, 2400, 0.96),
    "fashion-mnist": Recipe((784, 128, 10), 0.1, 500, 240, 2400, 0.85),
}
STANDSTILL = 1e-4  # relative decrease over ``patience`` updates that counts as progress


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
    if data not in RECIPES:
        raise BadData(f"no demonstration on {data!r}; there are {', '.join(RECIPES)}")
    begin = time.perf_counter()
    tell = say or (lambda _line: None)
    recipe = RECIPES[data]
    samples = load(data, folder=folder)
    inputs, targets = samples.train_inputs.flatten(1), samples.train_targets
    model = zero_start(recipe.widths)
    optimizer = SGD(model.parameters(), recipe.learning_rate)
    training = _Training(
        model, optimizer, inputs, targets, recipe, torch.Generator().manual_seed(seed), progress
    )
    name = "-".join(map(str, recipe.widths)) + " tanh"
    tell(f"Training a {name} network on {len(inputs):,} samples of {data}, every weight zero …")
    stalled = training.until_it_stands_still()
    accuracy_stalled = training.accuracy(inputs, targets)
    tell(
        f"It stands still after {len(stalled.loss):,} updates: loss {stalled.loss[-1]:.3f}, accuracy {accuracy_stalled:.2f}."
    )
    problem = Problem(model, (inputs, targets), nn.CrossEntropyLoss(), seed=seed)
    tell(
        f"Diagnosing: one gradient of all samples takes about {problem.price(1):.2g} s, the budget is {budget:g} …"
    )
    diagnosis = diagnose(problem, budget=budget, seed=seed, pictures=pictures, progress=progress)
    tell(diagnosis.headline())
    moved = escape(problem, point=diagnosis.point, budget=budget, seed=seed, progress=progress)
    tell(moved.headline())
    resumed = training.until_accurate()
    accuracy = training.accuracy(inputs, targets)
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
        test_accuracy=training.accuracy(samples.test_inputs.flatten(1), samples.test_targets),
        seconds=time.perf_counter() - begin,
    )


class _Training:
    """Plain SGD in seeded random order."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: SGD,
        inputs: Tensor,
        targets: Tensor,
        recipe: Recipe,
        generator: torch.Generator,
        progress: Progress | None,
    ) -> None:
        self._model, self._optimizer = model, optimizer
        self._inputs, self._targets, self._recipe = inputs, targets, recipe
        self._generator, self._progress = generator, progress
        self._loss = nn.CrossEntropyLoss()
        self._waiting: list[Tensor] = []

    def until_it_stands_still(self) -> RunTrace:
        """Train until the mean loss of the last ``patience`` updates is no lower than that of those before."""
        trace, span = RunTrace(), self._recipe.patience
        while True:
            for _ in range(span):
                self._update(trace)
            if len(trace.loss) >= 2 * span:
                earlier = sum(trace.loss[-2 * span : -span])
                if earlier - sum(trace.loss[-span:]) <= STANDSTILL * earlier:
                    return trace

    def until_accurate(self) -> RunTrace:
        """Train to the recipe's accuracy, for its most updates, or until Ctrl-C."""
        trace, every = RunTrace(), self._recipe.most // 20
        for update in range(self._recipe.most):
            try:
                if self._progress is not None:
                    self._progress("training on", update, self._recipe.most)
                self._update(trace)
            except KeyboardInterrupt:  # what was learned until here is reported
                break
            if (update + 1) % every == 0 and self.accuracy(
                self._inputs, self._targets
            ) >= self._recipe.goal:
                break
        return trace

    def accuracy(self, inputs: Tensor, targets: Tensor) -> float:
        """Share of samples whose largest output is the target's."""
        with torch.no_grad():
            return float((self._model(inputs).argmax(1) == targets).double().mean())

    def _update(self, trace: RunTrace) -> None:
        rows = self._next_batch()
        inputs, targets = (
            (self._inputs, self._targets)
            if rows is None
            else (self._inputs[rows], self._targets[rows])
        )
        self._optimizer.zero_grad()
        loss = self._loss(self._model(inputs), targets)
        loss.backward()
        self._optimizer.step()
        trace.record(loss=loss.item(), lr=self._recipe.learning_rate)

    def _next_batch(self) -> Tensor | None:
        if self._recipe.batch_size is None:
            return None
        if not self._waiting:
            order = torch.randperm(len(self._inputs), generator=self._generator)
            self._waiting = list(order.split(self._recipe.batch_size))
        return self._waiting.pop()
