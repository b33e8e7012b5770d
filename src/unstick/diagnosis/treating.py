"""A stuck run with a remedy applied: a copy to train on, or to save beside the old checkpoint.

Answers: what do model and optimizer look like after this remedy?
Does not answer: whether it helps; its trial told.
"""

import math

from torch.optim.lr_scheduler import LinearLR

from unstick.diagnosis.bench import Bench
from unstick.diagnosis.choosing import remedy_of
from unstick.diagnosis.copies import Copy
from unstick.diagnosis.diagnosing import Diagnosis
from unstick.diagnosis.evidence import with_coupled_decay
from unstick.diagnosis.run import Run
from unstick.diagnosis.surgery import NotPossible
from unstick.diagnosis.trials import Trial
from unstick.errors import BadModel

__all__ = ["treat"]


def treat(run: Run, diagnosis: Diagnosis, trial: Trial | None = None) -> Run:
    """Apply a remedy to a copy of a run.

    Args:
        run: Whose model stands where it was diagnosed; it stays there.
        diagnosis: Of that run.
        trial: One of ``diagnosis.trials``; None: the best.

    Returns:
        The copy: another problem with another model, another optimizer, and the batch size, clipping and scheduler that
        belong to the remedy. It has not been trained on. Of random remedies it is the seed that came out best.

    Raises:
        BadModel: No remedy helped, or the model has moved since.

    Cost:
        About three gradients.

    Example:
        >>> import torch
        >>> from unstick.diagnosis.diagnosing import diagnose
        >>> from unstick.problem.problem import Problem
        >>> problem = Problem.from_function(lambda x: (1 - x[0] * x[1]) ** 2, torch.zeros(2))
        >>> run = Run(problem, torch.optim.SGD(problem.model.parameters(), lr=0.1))
        >>> treated = treat(run, diagnose(problem, run.optimizer, pictures=False))
        >>> treated.problem.value() < 0.2, problem.value()
        (True, 1.0)
    """
    chosen = trial or diagnosis.remedy
    if chosen is None:
        raise BadModel(
            f"no remedy helped, of {len(diagnosis.trials)} that were tried; there is nothing to apply"
        )
    if run.optimizer is None:
        raise BadModel("the run has no optimizer to treat; expected the one it was diagnosed with")
    problem = with_coupled_decay(run)
    loss, then = problem.value(), diagnosis.evidence.loss
    if not math.isclose(loss, then, rel_tol=1e-5, abs_tol=1e-12):
        raise BadModel(
            f"the model has loss {loss:g} and had {then:g} when it was diagnosed; diagnose again: it has moved"
        )
    bench = Bench(run, problem)
    losses = [each if math.isfinite(each) else math.inf for each in chosen.losses_after]
    copy = Copy(bench, chosen.seeds[losses.index(min(losses))])
    try:
        remedy_of(bench, diagnosis.evidence, diagnosis.escape, chosen.key).change(copy)
    except NotPossible as why:
        raise BadModel(f"{chosen.remedy} does not fit this run: {why}") from None
    rising = None
    if copy.warmup > 1:
        rising = LinearLR(copy.optimizer, 1 / copy.warmup, total_iters=copy.warmup - 1)
    return Run(
        run.problem.with_model(copy.model),
        copy.optimizer,
        min(copy.batch_size, bench.samples) if bench.samples else None,
        scheduler=rising,
        clip_norm=copy.clip_norm,
    )
