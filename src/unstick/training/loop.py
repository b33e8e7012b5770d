"""The training loop: one model, epoch after epoch, recorded, stoppable, resumable.

Answers: what becomes of this model under this recipe, update by update?
Does not answer: many models at once (``population``).
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from unstick.errors import BadCheckpoint
from unstick.problem.batches import digest
from unstick.problem.cost import Cost
from unstick.problem.guard import devices_of, put_back_modes, put_back_randomness
from unstick.problem.objective import BatchLoss
from unstick.problem.problem import Problem
from unstick.record import Fact, Record, number
from unstick.trace import RunTrace
from unstick.training.checkpoint import read_state, write_state
from unstick.training.optimizers import kind_of, make_optimizer, settings_of
from unstick.training.order import generator_for
from unstick.training.recipe import Recipe
from unstick.training.samples import Samples, Score, evaluate, loss_of_batches
from unstick.training.steps import CurvatureStep, GradientStep, Step
from unstick.training.stopping import (
    DIVERGED,
    DONE,
    FINISHED,
    INTERRUPTED,
    Watch,
    interruptible,
)

__all__ = ["Progress", "Trained", "train"]

Progress = Callable[[str, float, float], None]
"""Told the stage, how much of it is done, and of how much."""

TELL_EVERY = 64  # updates between two words on progress


@dataclass(frozen=True, slots=True, eq=False)
class Trained(Record):
    """A training and how it went; the model itself holds the parameters it ended with."""

    outcome: str  # "done", "target reached", "no progress", "diverged", "interrupted", "second-order stationary"
    recipe: Recipe
    trace: RunTrace
    scores: tuple[Score, ...]  # of the samples that were evaluated, in order
    epochs: float
    samples: int
    parameters: int
    cost: Cost
    notes: tuple[str, ...] = ()

    def headline(self) -> str:
        """How it ended, and where."""
        updates = len(self.trace.loss)
        last = self.last()
        where = f"{last.split} {last}" if last else f"loss {number(self.final_loss)}"
        if self.outcome == DIVERGED:
            finite = [loss for loss in self.trace.loss if isfinite(loss)]
            where = f"the last finite loss was {number(finite[-1] if finite else None)}"
        return f"Training ended after {updates:,} update{'' if updates == 1 else 's'} ({self.outcome}): {where}."

    def facts(self) -> list[Fact]:
        """The recipe, then what came of it, then what it took."""
        facts = [
            ("recipe", str(self.recipe)),
            ("model", f"{self.parameters:,} parameters, {self.samples:,} samples"),
            ("loss", f"{number(self.first_loss)} at first, {number(self.final_loss)} at the end"),
        ]
        for split in dict.fromkeys(score.split for score in self.scores):
            last = [score for score in self.scores if score.split == split][-1]
            facts.append((split, f"{last}{self._best(split)}"))
        facts.append(("took", f"{self.epochs:.4g} epochs, {self.cost}{self._pace()}"))
        return facts + [("note", note) for note in self.notes]

    @property
    def first_loss(self) -> float | None:
        """The loss of the first batch, before any update."""
        return self.trace.loss[0] if self.trace.loss else None

    @property
    def final_loss(self) -> float | None:
        """The mean over the last epoch's batches, or over as many of them as there are."""
        if not self.trace.loss:
            return None
        batches = self.recipe.batches_of(self.samples)
        last = self.trace.loss[-batches:]
        return sum(last) / len(last)

    def last(self, split: str | None = None) -> Score | None:
        """The last score of a split, or of any but the training one where there is another."""
        wanted = [s for s in self.scores if split in (None, s.split)]
        others = [s for s in wanted if s.split != "training"]
        chosen = others or wanted
        return chosen[-1] if chosen else None

    def _best(self, split: str) -> str:
        known = [s for s in self.scores if s.split == split and isfinite(s.loss)]
        if len(known) < 2 or split == "training":
            return ""
        best = min(known, key=lambda s: s.loss)
        return f" (lowest loss {number(best.loss)} after update {best.update:,})"

    def _pace(self) -> str:
        known = [s for s in self.trace.seconds if s is not None]
        return f"; an update {number(1e3 * median(known), 2)} ms" if known else ""


def train(
    model: nn.Module,
    data: Any,
    loss: Callable[[Tensor, Tensor], Tensor] | None = None,
    recipe: Recipe | None = None,
    *,
    batch_loss: BatchLoss | None = None,
    validation: Any = None,
    evaluate_every: float = 1.0,
    optimizer: Optimizer | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_seconds: float = 10.0,
    resume: bool = False,
    progress: Progress | None = None,
) -> Trained:
    """Train a model in place.

    Equal calls give equal numbers on the same machine: batches, noise in the model and everything else random come from
    ``recipe.seed``. The global random state is put back. Ctrl-C ends the training after the update in progress.

    Args:
        model: Moved. Only parameters with ``requires_grad`` are.
        data: A ``Dataset``, a pair of tensors (inputs, targets), or batches; kept in memory.
        loss: ``loss(model(inputs), targets)`` → mean over the batch.
        recipe: Everything else; by default SGD with rate 0.1 on batches of 32 for ten epochs.
        batch_loss: Instead of ``loss``: ``batch_loss(model, batch)`` → scalar.
        validation: Data that are only looked at.
        evaluate_every: Epochs between two looks at them; there is always one at the end.
        optimizer: Goes on with this one, its memory included, instead of the one that the recipe names; its rates are
            scaled by the recipe's schedule.
        checkpoint: A file that always holds a whole state of this training.
        checkpoint_seconds: Least time between two writings.
        resume: Go on from ``checkpoint`` if it is there; the same numbers as without an interruption.
        progress: Told how many updates are done.

    Returns:
        The trace of every update and how it ended. A loss that is not finite ends it with "diverged", the parameters as
        they were when it was computed.

    Raises:
        BadRecipe: Settings out of range for these data.
        BadData: No sample, or batches that do not join into one.
        BadCheckpoint: One is there and ``resume`` is not given, or it is of another training.

    Cost:
        A gradient an epoch. The loop itself adds some microseconds an update; ``norms`` a few passes over the parameters.

    Example:
        >>> x = torch.linspace(-1, 1, 32).reshape(-1, 1)
        >>> model = nn.Linear(1, 1)
        >>> told = train(model, (x, 3 * x), nn.MSELoss(), Recipe(lr=0.5, batch_size=8, epochs=50))
        >>> told.outcome, round(float(model.weight.detach()), 3)
        ('done', 3.0)
    """
    recipe = recipe or Recipe()
    samples = data if isinstance(data, Samples) else Samples(data, model)
    run = _Run(
        model,
        samples,
        loss_of_batches(loss, batch_loss),
        recipe,
        loss=loss,
        batch_loss=batch_loss,
        validation=None if validation is None else Samples(validation, model),
        evaluate_every=evaluate_every,
        optimizer=optimizer,
    )
    path = None if checkpoint is None else Path(checkpoint)
    with put_back_randomness(devices_of(model)), put_back_modes(model):
        torch.manual_seed(generator_for("model", recipe.seed).initial_seed())
        if path is not None and path.exists():
            if not resume:
                raise BadCheckpoint(
                    f"{path} exists; expected resume=True to go on from it, or another name"
                )
            run.load(read_state(path), path)
        return run.go(path, checkpoint_seconds, progress)


class _Run:
    """The state of a training between two updates."""

    def __init__(
        self,
        model: nn.Module,
        samples: Samples,
        objective: BatchLoss,
        recipe: Recipe,
        *,
        loss: Callable[[Tensor, Tensor], Tensor] | None,
        batch_loss: BatchLoss | None,
        validation: Samples | None,
        evaluate_every: float,
        optimizer: Optimizer | None,
    ) -> None:
        self.model, self.samples, self.recipe = model, samples, recipe
        self.total = recipe.updates_for(samples.count)
        self.order = recipe.order(samples.count)
        self.pace = recipe.pace(self.total)
        self.watch = Watch(recipe)
        self.trace, self.scores = RunTrace(), list[Score]()
        self.sum, self.seen = 0.0, 0  # of this epoch's losses times samples, and samples
        self.seconds = 0.0
        self.notes: list[str] = []
        self.ended: str | None = None  # the outcome, once there is one that stands
        self._score = lambda split, data: evaluate(
            model, data, loss, batch_loss=batch_loss, split=split, update=len(self.trace.loss)
        )
        self.validation, self.evaluate_every = validation, evaluate_every
        self.trainable = [p for p in model.parameters() if p.requires_grad]
        self.rate, self.step = self._made(objective, loss, batch_loss, optimizer)
        start = recipe.average_from
        self.averaged = None if start is None else AveragedModel(model)
        self.average_after = 0 if start is None else start * self.total

    def _made(
        self,
        objective: BatchLoss,
        loss: Callable[[Tensor, Tensor], Tensor] | None,
        batch_loss: BatchLoss | None,
        optimizer: Optimizer | None,
    ) -> tuple[float, Step]:
        """The rate that schedules are a multiple of, and what updates."""
        recipe, count = self.recipe, self.samples.count
        if optimizer is not None:
            rate = float(optimizer.param_groups[0]["lr"])
        else:
            settings = settings_of(recipe, samples=count)
            rate = settings["lr"]
            if kind_of(recipe).make is None:
                problem = Problem(
                    self.model,
                    [self.samples.batch],
                    loss,
                    batch_loss=batch_loss,
                    mode="train",
                    weight_decay=recipe.weight_decay,
                )
                return rate, CurvatureStep(recipe.optimizer, problem, settings, seed=recipe.seed)
            optimizer = make_optimizer(recipe, self.trainable, samples=count)
        return rate, GradientStep(
            self.model,
            objective,
            optimizer,
            rate=rate,
            clip_norm=recipe.clip_norm,
            norms=recipe.norms,
        )

    def go(self, path: Path | None, every: float, progress: Progress | None) -> Trained:
        """Update until something ends it."""
        written, outcome = time.perf_counter(), self.ended or DONE
        self.model.train()
        if path is not None and not path.exists():
            self.save(path)  # a place that cannot be written to is found now
        with interruptible() as interrupt:
            while self.ended is None and (done := len(self.trace.loss)) < self.total:
                if progress is not None and done % TELL_EVERY == 0:
                    progress("updates", done, self.total)
                ended = self._update()
                if ended is None and interrupt.asked:
                    ended = INTERRUPTED
                if ended is not None:
                    outcome = ended
                    break
                if path is not None and time.perf_counter() - written > every:
                    self.save(path)
                    written = time.perf_counter()
        self.ended = None if outcome == INTERRUPTED else outcome
        if path is not None and outcome != DIVERGED:
            self.save(path)
        self._finish(outcome)
        if progress is not None and outcome == DONE:
            progress("updates", self.total, self.total)
        return self._told(outcome)

    def _update(self) -> str | None:
        begin = time.perf_counter()
        order, step = self.order, self.step
        epoch = order.epoch + order.done / order.batches
        rows = order.next()
        batch = self.samples.batch if order.whole else self.samples.take(rows)
        rate = self.rate * self.pace.multiplier
        value = step.take(batch, rate=rate, epoch=epoch)
        size = len(rows)
        self.trace.record(
            loss=value,
            lr=rate,
            batch_size=size,
            seconds=time.perf_counter() - begin,
            gradient_norm=step.gradient_norm,
            update_norm=step.update_norm,
        )
        if not isfinite(value):
            return DIVERGED
        if not self.pace.constant:
            self.pace.advance()
        self.sum, self.seen = self.sum + value * size, self.seen + size
        self.seconds += time.perf_counter() - begin
        if step.finished:
            return FINISHED
        return self._end_of_epoch() if order.ends_epoch else None

    def _end_of_epoch(self) -> str | None:
        mean, self.sum, self.seen = self.sum / self.seen, 0.0, 0
        self.pace.after_epoch(mean)
        done = len(self.trace.loss)
        if self.averaged is not None and done >= self.average_after:
            self.averaged.update_parameters(self.model)
        if self.validation is not None and done < self.total:
            last = next((s.update for s in reversed(self.scores) if s.split == "validation"), 0)
            if done - last >= self.evaluate_every * self.order.batches:
                self.scores.append(self._score("validation", self.validation))
        return self.watch.after_epoch(mean)

    def _finish(self, outcome: str) -> None:
        """Take the average if there is one, and look at the model once more."""
        averaged = self.averaged
        if averaged is not None and int(averaged.n_averaged) > 0 and outcome != INTERRUPTED:
            with torch.no_grad():
                for own, mean in zip(
                    self.model.parameters(), averaged.module.parameters(), strict=True
                ):
                    own.copy_(mean)
            self.samples.renew_statistics(self.model, self.order.batch_size)
            self.notes.append(
                f"the parameters are the mean of {int(averaged.n_averaged)} epochs' ends"
            )
        if self.validation is not None and outcome != DIVERGED:
            self.scores.append(self._score("validation", self.validation))

    def _told(self, outcome: str) -> Trained:
        updates = len(self.trace.loss)
        used = sum(size or 0 for size in self.trace.batch_size)
        epochs = used / self.samples.count
        return Trained(
            outcome=outcome,
            recipe=self.recipe,
            trace=self.trace,
            scores=tuple(self.scores),
            epochs=epochs if updates else 0.0,
            samples=self.samples.count,
            parameters=sum(p.numel() for p in self.trainable),
            cost=Cost(samples=used, gradients=epochs, seconds=self.seconds),
            notes=tuple(self.notes),
        )

    def save(self, path: Path) -> None:
        """Write everything that the rest of the training depends on."""
        write_state(
            path,
            {
                "recipe": self.recipe.written(),
                "data": [self.samples.count, digest([self.samples.batch])],
                "model": self.model.state_dict(),
                "optimizer": self.step.state_dict(),
                "pace": self.pace.state_dict(),
                "order": self.order.state_dict(),
                "watch": self.watch.state_dict(),
                "random": _random_state(devices_of(self.model)),
                "trace": {name: getattr(self.trace, name) for name in RunTrace.__slots__},
                "scores": [[s.update, s.split, s.loss, s.accuracy] for s in self.scores],
                "sums": [self.sum, self.seen, self.seconds],
                "ended": self.ended,
                "averaged": None if self.averaged is None else self.averaged.state_dict(),
            },
        )

    def load(self, state: dict[str, Any], path: Path) -> None:
        """Be where the written training was.

        Raises:
            BadCheckpoint: It was another training.
        """
        written = state["recipe"]
        changed = [
            name for name, value in self.recipe.written().items() if written.get(name) != value
        ]
        if changed:
            told = ", ".join(f"{name} was {written.get(name)!r}" for name in changed)
            raise BadCheckpoint(
                f"{path} is of another recipe: {told}; expected the same to go on from it"
            )
        own = self.model.state_dict()
        if {k: v.shape for k, v in own.items()} != {k: v.shape for k, v in state["model"].items()}:
            raise BadCheckpoint(f"{path} is of another model; expected the same parameters")
        if state["data"] != [self.samples.count, digest([self.samples.batch])]:
            raise BadCheckpoint(
                f"{path} is of other data ({state['data'][0]:,} samples); expected the same, in the same order"
            )
        self.model.load_state_dict(state["model"])
        self.step.load_state_dict(state["optimizer"])
        self.pace.load_state_dict(state["pace"])
        self.order.load_state_dict(state["order"])
        self.watch.load_state_dict(state["watch"])
        if self.averaged is not None:
            self.averaged.load_state_dict(state["averaged"])
        _put_random_state(state["random"])
        self.trace = RunTrace(**state["trace"])
        self.scores = [Score(*score) for score in state["scores"]]
        self.sum, self.seen, self.seconds = state["sums"]
        self.ended = state["ended"]


def _random_state(devices: list[int]) -> dict[str, Tensor]:
    cuda = {f"cuda:{index}": torch.cuda.get_rng_state(index) for index in devices}
    return {"cpu": torch.get_rng_state(), **cuda}


def _put_random_state(states: dict[str, Tensor]) -> None:
    for device, state in states.items():
        if device == "cpu":
            torch.set_rng_state(state)
        else:
            torch.cuda.set_rng_state(state, device)
