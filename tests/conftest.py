"""What holds for every test: one thread a worker, so that the workers do not fight over the cores."""

import torch

torch.set_num_threads(1)
