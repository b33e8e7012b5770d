"""Any scalar function of a vector, without model or data: what is this point, and how does one get off it?

The function is the loss of a chain of five scalar weights, y = w₁w₂w₃w₄w₅·x, on one sample (1, 1). At zero the
gradient and the whole Hessian vanish: no method of first or second order sees a way out, a finite step does.
"""

import torch
from torch import Tensor

import unstick


def chain(w: Tensor) -> Tensor:
    """The squared error; nothing lies below 0."""
    return (1 - w.prod()) ** 2


problem = unstick.Problem.from_function(chain, torch.zeros(5), lower_bound=0.0)
print(unstick.classify(problem))
print(unstick.escape(problem))  # this moves problem.model.x
print("now at", [round(value, 3) for value in problem.model.x.tolist()])
