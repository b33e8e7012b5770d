"""What holds for every test: one thread a worker, so that the workers do not fight over the cores, and Ctrl-C as usual."""

import signal

import torch

torch.set_num_threads(1)
if (
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN
):  # so a shell starts what it runs in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)
