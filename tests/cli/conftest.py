"""A user's file, as the command line meets it."""

from textwrap import dedent

import pytest
from click.testing import CliRunner

from unstick.cli.main import main

STUCK = """
    import torch
    from torch import nn

    import unstick


    def network():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


    def data():
        draw = torch.Generator().manual_seed(1)
        inputs = torch.randn(64, 3, generator=draw)
        return inputs, (inputs[:, 0] * inputs[:, 1] > 0).long()


    def moving():
        return unstick.Problem(network(), data(), nn.CrossEntropyLoss())


    def saddle():
        return unstick.Problem.from_function(lambda x: x[0] ** 2 - x[1] ** 2 + x[1] ** 4, torch.zeros(2))


    def minimum():
        return unstick.Problem.from_function(lambda x: (x**2).sum(), torch.zeros(2))


    def run():
        return unstick.Run(saddle())


    def sized(data_dir):
        return unstick.Problem.from_function(lambda x: (x**2).sum(), torch.zeros(len(data_dir.name)))


    def chatty():
        print("loading the data")
        return saddle()


    def talking():
        def loss(x):
            print("in the loss")
            return x[0] ** 2 - x[1] ** 2

        return unstick.Problem.from_function(loss, torch.zeros(2))


    def raising():
        return network()(torch.zeros(5))


    def exiting():
        raise SystemExit("bye")


    def nothing():
        pass


    def unready():
        return network()


    def needing(size, data_dir=None):
        return saddle()


    LIMIT = 3
"""


@pytest.fixture
def stuck(tmp_path):
    file = tmp_path / "stuck.py"
    file.write_text(dedent(STUCK))
    return file


@pytest.fixture
def call():
    """Run ``unstick`` in this process; the result has exit_code, stdout and stderr."""

    def invoke(*arguments):
        return CliRunner().invoke(main, [str(argument) for argument in arguments])

    return invoke
