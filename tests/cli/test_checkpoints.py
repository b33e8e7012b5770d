"""Checkpoints: what is saved is loaded bit for bit, and what does not fit is named."""

import pickle

import pytest
import torch
from torch import nn

import unstick
from unstick.cli.checkpoints import check_free, load_checkpoint, save_checkpoint
from unstick.errors import BadCheckpoint


def network(width=4, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width), nn.Linear(width, 2))


@pytest.fixture
def run():
    draw = torch.Generator().manual_seed(1)
    data = (torch.randn(8, 3, generator=draw), torch.tensor([0, 1] * 4))
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 10)
    problem = unstick.Problem(model, data, nn.CrossEntropyLoss())
    return unstick.Run(problem, optimizer=optimizer, scheduler=scheduler)


def assert_equal(state, other):
    assert state.keys() == other.keys()
    assert all(torch.equal(state[name], other[name]) for name in state)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
def test_what_is_saved_is_loaded_bit_for_bit(run, tmp_path, suffix):
    other, path = network(seed=5), tmp_path / f"model{suffix}"

    save_checkpoint(other, path)

    assert load_checkpoint(path, run) == []
    assert_equal(run.problem.model.state_dict(), other.state_dict())


def test_a_dict_with_model_brings_optimizer_and_scheduler_along(run, tmp_path):
    path = tmp_path / "all.pt"
    other = network(seed=5)
    adam = torch.optim.Adam(other.parameters(), lr=0.025)
    other(torch.randn(8, 3)).sum().backward()
    adam.step()
    steps = torch.optim.lr_scheduler.StepLR(adam, 10)
    parts = {"model": other, "optimizer": adam, "scheduler": steps}
    torch.save({key: part.state_dict() for key, part in parts.items()} | {"epoch": 3}, path)

    assert load_checkpoint(path, run) == ["epoch"]
    assert run.optimizer.param_groups[0]["lr"] == 0.025
    assert len(run.optimizer.state) == len(list(other.parameters()))


def test_what_is_not_used_is_said(run, tmp_path):
    path = tmp_path / "some.pt"
    torch.save({"model": network().state_dict(), "optimizer": {}, "note": 1}, path)

    assert load_checkpoint(path, unstick.Run(run.problem)) == ["note", "optimizer"]


def state(**changes):
    return network().state_dict() | changes


@pytest.mark.parametrize(
    ("holds", "says"),
    [
        ({}, "lacks 0.weight, 0.bias, 1.weight, 1.bias and 5 more"),
        (state(extra=torch.zeros(2)), "has extra, which the model has not"),
        (state(**{"0.weight": torch.zeros(7, 3)}), r"shape: 0.weight \[7, 3\] for \[4, 3\]"),
        (state(**{"0.weight": 3}), r"shape: 0.weight \(int\) for \[4, 3\]"),
        ({f"module.{k}": v for k, v in state().items()}, "saved from a DataParallel wrapper"),
        ({"state_dict": state(), "epoch": 2}, "has state_dict, epoch, which the model has not"),
        ([1, 2], "holds list; expected a state dict"),
        ({"model": state(), "optimizer": {"junk": 1}}, "its optimizer does not fit"),
    ],
    ids=["empty", "unexpected", "shape", "no tensor", "wrapped", "lightning", "list", "optimizer"],
)
def test_what_does_not_fit_is_named(run, tmp_path, holds, says):
    path = tmp_path / "model.pt"
    torch.save(holds, path)

    with pytest.raises(BadCheckpoint, match=says) as refusal:
        load_checkpoint(path, run)

    assert "\n" not in str(refusal.value)


def test_a_model_that_does_not_fit_changes_nothing(run, tmp_path):
    path = tmp_path / "model.pt"
    before = {name: value.clone() for name, value in run.problem.model.state_dict().items()}
    torch.save(network(width=7).state_dict(), path)

    with pytest.raises(BadCheckpoint):
        load_checkpoint(path, run)

    assert_equal(run.problem.model.state_dict(), before)


class Opaque:
    """A class that only its own program knows."""


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("model.pt", b"", "is not a checkpoint"),
        ("model.pt", b"hello, this is text", "is not a checkpoint"),
        ("model.pt", pickle.dumps(Opaque()), "holds pickled objects, which are never run"),
        ("model.pt", b"PK\3\4 cut off", "is not a checkpoint"),
        ("model.safetensors", b"", "is not a checkpoint"),
        ("model.safetensors", b"\x08\0\0\0\0\0\0\0nonsense", "is not a checkpoint"),
        ("model.bin", b"", r"expected .pt, .pth, .safetensors"),
    ],
)
def test_what_is_no_checkpoint_is_refused_in_one_line(run, tmp_path, name, content, says):
    path = tmp_path / name
    path.write_bytes(content)

    with pytest.raises(BadCheckpoint, match=says) as refusal:
        load_checkpoint(path, run)

    assert "\n" not in str(refusal.value)


def test_a_file_that_is_not_there_is_refused(run, tmp_path):
    with pytest.raises(BadCheckpoint, match="does not exist"):
        load_checkpoint(tmp_path / "model.pt", run)


def test_tied_and_strided_parameters_can_be_saved_as_safetensors(tmp_path):
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    model[0].bias = nn.Parameter(torch.zeros(6)[::2])
    path = tmp_path / "tied.safetensors"

    save_checkpoint(model, path)

    assert path.stat().st_size > 0


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("taken.pt", "is not written over"),
        ("model.bin", "is not called"),
        ("no/such/folder.pt", "does not exist"),
    ],
)
def test_a_place_that_cannot_be_saved_at_is_refused(tmp_path, name, says):
    (tmp_path / "taken.pt").write_text("precious")

    with pytest.raises(BadCheckpoint, match=says):
        check_free(tmp_path / name)

    assert (tmp_path / "taken.pt").read_text() == "precious"
