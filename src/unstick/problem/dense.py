"""Dense Hessians at many parameter vectors at once.

Answers: ∇²L(θ), written down, at each of many θ.
Does not answer: products at one θ too large for that; that is ``hessian``.
"""

import torch
from torch import Tensor
from torch.func import vmap

from unstick.errors import BadModel
from unstick.problem.batches import Batch, size_of
from unstick.problem.evaluation import REFUSALS, Evaluation, ordinary
from unstick.problem.products import graph_of_a_sample

__all__ = ["dense_hessians"]

COLUMNS = 8  # of a Hessian at once: fastest measured on a CPU from 1 to 118, for 1 to 16 vectors θ
TOGETHER = 2**26  # bytes in use at once: more falls out of the caches and gains nothing


def dense_hessians(evaluation: Evaluation, thetas: Tensor, *, memory: float) -> Tensor:
    """The Hessians of the loss at each row of ``thetas`` [m, n] → [m, n, n], weight decay included.

    A graph of the gradients at several θ is kept, and unit vectors are multiplied by it at once; where the model cannot
    be batched, one θ and one column at a time. On networks of some hundred parameters a column takes half the time that
    it takes forward over reverse, which computes the gradient again for every block of columns.

    Args:
        evaluation: The loss.
        thetas: Parameter vectors.
        memory: Bytes for graphs and the work on them.

    Raises:
        BadModel: The loss has no second derivative by automatic differentiation.

    Cost:
        m gradients and m·n products; m·n² numbers.
    """
    thetas = ordinary(thetas).detach()
    m, n = thetas.shape
    if m == 0:
        return thetas.new_empty(0, n, n)
    with evaluation.meter.timed(), evaluation.visit():
        [total] = evaluation.pooled(lambda: [_of_our_data(evaluation, thetas, memory)])
    if evaluation.decay is not None:
        total = total + torch.diag(evaluation.decay)
    return (total + total.mT) / 2


def _of_our_data(evaluation: Evaluation, thetas: Tensor, memory: float) -> Tensor:
    """The part that comes from this process's batches."""
    m, n = thetas.shape
    total = torch.zeros(m, n, n, dtype=thetas.dtype, device=thetas.device)
    width, columns = _blocks(evaluation, min(memory, TOGETHER))
    batched = True
    for share, batch in zip(evaluation.shares, evaluation.batches, strict=True):
        for begin in range(0, m, width):
            rows = slice(begin, min(m, begin + width))
            if batched:
                try:
                    total[rows] += share * _together(evaluation, thetas[rows], batch, columns)
                    continue
                except REFUSALS:  # what vmap cannot batch: in-place state, random numbers, loops
                    batched = False
            for row in range(rows.start, rows.stop):
                total[row] += share * _alone(evaluation, thetas[row], batch)
    evaluation.meter.count("gradient", m * evaluation.samples)
    evaluation.meter.count("product/kept", m * n * evaluation.samples)
    return total


def _blocks(evaluation: Evaluation, limit: float) -> tuple[int, int]:
    """How many θ, and how many columns of each Hessian, to work on at once."""
    per_sample = graph_of_a_sample(evaluation)
    if per_sample is None:
        return 1, 1
    largest = max((size_of(batch) or 1 for batch in evaluation.batches), default=1)
    graph = max(1.0, per_sample * largest + 8.0 * evaluation.layout.n)
    columns = int(min(COLUMNS, max(1.0, limit / graph - 1)))
    return int(max(1.0, limit / (graph * (1 + columns)))), columns


def _together(evaluation: Evaluation, thetas: Tensor, batch: Batch, columns: int) -> Tensor:
    """Hessians of one batch's loss at some θ, by blocks of columns: the losses do not see one another's θ."""
    m, n = thetas.shape
    thetas = thetas.clone().requires_grad_()
    losses = vmap(evaluation.batch_loss, (0, None))(thetas, batch)
    gradients = _gradient(losses.sum(), thetas)
    if not gradients.requires_grad:  # a loss linear in θ
        return thetas.new_zeros(m, n, n).detach()
    out = thetas.new_empty(m, n, n).detach()
    for units in torch.eye(n, dtype=thetas.dtype, device=thetas.device).split(columns):
        [block] = torch.autograd.grad(
            gradients,
            thetas,
            units.unsqueeze(1).expand(-1, m, -1),
            is_grads_batched=True,
            retain_graph=True,
            materialize_grads=True,
        )
        first = int(units[0].argmax())
        out[:, first : first + len(units)] = block.transpose(0, 1)
    return out


def _alone(evaluation: Evaluation, theta: Tensor, batch: Batch) -> Tensor:
    """The Hessian of one batch's loss at one θ, a double backward pass a column."""
    theta = theta.clone().requires_grad_()

    def work() -> Tensor:
        gradient = _gradient(evaluation.objective.loss_of(batch), theta)
        if not gradient.requires_grad:
            return theta.new_zeros(len(theta), len(theta)).detach()
        rows = [
            torch.autograd.grad(entry, theta, retain_graph=True, materialize_grads=True)[0]
            for entry in gradient
        ]
        return torch.stack(rows).detach()

    try:
        return evaluation.at(theta, work)
    except REFUSALS as error:
        why = " ".join(str(error).split("\n")[0].split())[:120]
        raise BadModel(
            f"the dense Hessian cannot be computed by automatic differentiation ({why}); expected a loss with second "
            "derivatives: methods that need only Hessian products may work"
        ) from error


def _gradient(loss: Tensor, theta: Tensor) -> Tensor:
    """∇ of a scalar, with a graph; zero where it does not depend on θ."""
    if not loss.requires_grad:
        return torch.zeros_like(theta, requires_grad=False)
    return torch.autograd.grad(loss, theta, create_graph=True, materialize_grads=True)[0]
