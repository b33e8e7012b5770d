"""One problem shared by many processes: ``torchrun --nproc-per-node 2 torchrun.py``.

``python torchrun.py`` computes the same numbers in one process.
"""

import os

import torch
from torch import distributed, nn
from torch.distributed.fsdp import fully_shard

import unstick

PARTED = "RANK" in os.environ  # torchrun sets it, and others that the next line reads
if PARTED and not distributed.is_initialized():
    distributed.init_process_group()

digits = unstick.data.load("digits")
torch.manual_seed(0)  # every process makes the same model
model = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))


def problem() -> unstick.Problem:
    """The same in every process; the samples are shared out."""
    return unstick.Problem(
        model, (digits.train_inputs, digits.train_targets), nn.CrossEntropyLoss()
    )


if __name__ == "__main__":
    ends = unstick.curvature_ends(problem(), lowest=1, highest=1, tolerance=1e-3)
    speaks = not PARTED or distributed.get_rank() == 0
    if speaks:
        print(ends)
    if PARTED:
        fully_shard(model)  # from now on each process holds a part of the parameters
        shards = unstick.curvature_ends(problem(), lowest=1, highest=1, tolerance=1e-3)
        if speaks:
            print(shards)
        distributed.destroy_process_group()
