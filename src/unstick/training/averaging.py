"""Averages of parameters: of one training's end, and of several workers.

Answers: what does a large-batch training become when small-batch workers finish it and are averaged?
Does not answer: averaging within one training, which is ``Recipe(average_from=…)``.
"""

import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from unstick.errors import BadRecipe
from unstick.problem.cost import Cost
from unstick.problem.objective import BatchLoss
from unstick.record import Fact, Record, number
from unstick.training.loop import Progress, Trained, train
from unstick.training.optimizers import settings_of
from unstick.training.population import Population, train_population
from unstick.training.recipe import Recipe
from unstick.training.samples import Samples, Score, evaluate

__all__ = ["Swapped", "swap"]


@dataclass(frozen=True, slots=True, eq=False)
class Swapped(Record):
    """The three phases of SWAP and how good the model was after each."""

    together: Trained  # one model on large batches
    workers: Population  # from there on small batches, each with its own order
    before: Score  # after the first phase
    apart: tuple[Score, ...]  # each worker after the second
    averaged: Score  # the mean of the workers, batch statistics recomputed
    cost: Cost

    @property
    def outcome(self) -> str:
        """How the phases ended."""
        return self.workers.outcome

    def headline(self) -> str:
        """What the average is worth beside its workers."""
        losses = sorted(score.loss for score in self.apart)
        return (
            f"The average of {len(self.apart)} workers has loss {number(self.averaged.loss)}; the workers "
            f"{number(losses[0])} to {number(losses[-1])}, the model they started from {number(self.before.loss)}."
        )

    def facts(self) -> list[Fact]:
        """Each phase, then the price."""
        return [
            ("large batches", f"{self.together.recipe}: {self.before.split} {self.before}"),
            *((f"worker {k}", f"{score.split} {score}") for k, score in enumerate(self.apart)),
            ("averaged", f"{self.averaged.split} {self.averaged}"),
            ("took", str(self.cost)),
        ]


def swap(
    model: nn.Module,
    data: Any,
    loss: Callable[[Tensor, Tensor], Tensor] | None = None,
    *,
    large: Recipe,
    small: Recipe,
    workers: int = 4,
    batch_loss: BatchLoss | None = None,
    validation: Any = None,
    progress: Progress | None = None,
) -> Swapped:
    """Train on large batches, let workers go on apart on small ones, and average them.

    Args:
        model: Trained in place; ends with the average.
        data: As for ``train``.
        loss: ``loss(model(inputs), targets)`` → mean over the batch.
        large: The first phase; give it a ``target_loss`` to end it in time.
        small: The second; worker k has the seed ``small.seed + k``.
        workers: How many.
        batch_loss: Instead of ``loss``.
        validation: What the scores are taken on; None: the training data.
        progress: Told how many updates are done.

    Raises:
        BadRecipe: Fewer than one worker, or settings of either phase out of range; the model has not moved.

    Cost:
        That of both phases; the workers are trained at once where their model allows it.

    References:
        Gupta, Serrano and DeCoste (2020), Stochastic Weight Averaging in Parallel.
    """
    if workers < 1:
        raise BadRecipe(f"workers is {workers}; expected at least 1")
    begin = time.perf_counter()
    samples = Samples(data, model)
    looked_at = samples if validation is None else Samples(validation, model)
    split = "training" if validation is None else "validation"

    def score(of: nn.Module) -> Score:
        return evaluate(of, looked_at, loss, batch_loss=batch_loss, split=split)

    settings_of(small, samples=samples.count)  # refused now, not after the first phase
    size = small.size_of_batch(samples.count)
    together = train(model, samples, loss, large, batch_loss=batch_loss, progress=progress)
    before = score(model)
    copies = [deepcopy(model) for _ in range(workers)]
    recipes = [replace(small, seed=small.seed + k) for k in range(workers)]
    apart = train_population(
        copies, samples, loss, recipes, batch_loss=batch_loss, progress=progress
    )
    scores = tuple(score(copy) for copy in copies)
    _average(model, copies)
    samples.renew_statistics(model, size)
    spent = together.cost + apart.cost
    return Swapped(
        together,
        apart,
        before,
        scores,
        score(model),
        replace(spent, seconds=time.perf_counter() - begin),
    )


@torch.no_grad()
def _average(model: nn.Module, copies: Sequence[nn.Module]) -> None:
    named = [dict(copy.named_parameters()) for copy in copies]
    for name, parameter in model.named_parameters():
        parameter.copy_(torch.stack([each[name] for each in named]).mean(0))
