"""A state comes back exactly as it was, and a write that fails leaves the old one."""

import json
import math
import struct

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from unstick.errors import BadCheckpoint
from unstick.training.checkpoint import FORMAT, is_state, read_state, write_state

DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16,
    torch.int8, torch.uint8, torch.bool, torch.complex64,
]  # fmt: skip


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state.safetensors"


def back(path, state):
    write_state(path, state)
    return read_state(path)


def assert_exact(found, expected):
    """Equal in type, structure and bits; a tuple comes back as a list."""
    if isinstance(expected, torch.Tensor):
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        assert torch.equal(
            found.reshape(-1).view(torch.uint8), expected.contiguous().reshape(-1).view(torch.uint8)
        )
    elif isinstance(expected, dict):
        assert [(type(k), k) for k in found] == [(type(k), k) for k in expected]
        for key, value in expected.items():
            assert_exact(found[key], value)
    elif isinstance(expected, list | tuple):
        assert type(found) is list
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_exact(one, other)
    else:
        assert type(found) is type(expected)
        assert found == expected or (math.isnan(found) and math.isnan(expected))


@pytest.mark.parametrize(
    "value",
    [
        {"a": {0: 1, 1: {"b": [], "c": {}}}, "d": "", "λ": "β\n\"'"},
        [True, False, None, 0, 1, -(2**80), 0.1, -0.0, 1e-320],
        [math.nan, math.inf, -math.inf],
        [math.nan, math.inf, -math.inf, -0.0, 0.1] * 5,
        [[0.1 * k, float(k)] for k in range(40)],
        [1.0] * 16 + [1],
        [0.5] * 20 + [None],
        (1, (2.5, "x")),
        {"": {"": 1}},
    ],
    ids=str,
)
def test_numbers_words_and_nested_maps_come_back_as_they_were(path, value):
    assert_exact(back(path, value), value)
    assert_exact(back(path, {"state": value}), {"state": value})


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_tensors_of_every_type_and_shape_come_back_bit_for_bit(path, dtype):
    draw = torch.Generator().manual_seed(0)
    whole = torch.randint(0, 2, (4, 6), generator=draw).to(dtype)
    state = {
        "whole": whole,
        "turned": whole.T,
        "thin": whole[:, ::2],
        "none": whole[:0],
        "one": whole[0, 0],
    }

    assert_exact(back(path, state), state)


def test_numbers_that_are_not_finite_keep_their_bits_in_tensors(path):
    odd = torch.tensor([math.nan, math.inf, -math.inf, -0.0, 1e-320], dtype=torch.float64)

    assert_exact(back(path, [odd]), [odd])


def test_tensors_that_share_memory_come_back_apart_and_equal(path):
    whole = torch.arange(6.0)
    found = back(path, {"whole": whole, "same": whole, "part": whole[2:4]})

    assert_exact(found, {"whole": whole, "same": whole, "part": whole[2:4]})
    found["whole"].zero_()
    assert found["same"].tolist() == whole.tolist()
    assert found["part"].tolist() == [2.0, 3.0]


def test_places_whose_names_read_alike_are_kept_apart(path):
    one, two, three = (torch.tensor([float(k)]) for k in range(3))
    state = {"a.b": one, "a": {"b": two}, 0: one, "0": two, ".0": three, "0'": three}

    assert_exact(back(path, state), state)


def test_a_parameter_is_written_without_its_history_and_nothing_of_it_changes(path):
    weight = nn.Parameter(torch.ones(2))
    found = back(path, {"weight": weight})

    assert not found["weight"].requires_grad
    assert weight.requires_grad


def test_an_optimizer_goes_on_from_what_was_written(path):
    def made():
        w = nn.Parameter(torch.tensor([1.0, -2.0]))
        return w, torch.optim.AdamW([w], lr=0.1, betas=(0.8, 0.95))

    (w, adam), (v, other) = made(), made()
    for _ in range(3):
        w.grad = w.detach() ** 2
        adam.step()
    write_state(path, {"w": w, "adam": adam.state_dict()})
    state = read_state(path)
    with torch.no_grad():
        v.copy_(state["w"])
    other.load_state_dict(state["adam"])
    for x, optimizer in ((w, adam), (v, other)):
        x.grad = torch.ones(2)
        optimizer.step()

    assert torch.equal(w, v)


def test_a_new_state_takes_the_place_of_the_old_one_and_nothing_else_is_left(path):
    write_state(path, {"updates": 1})
    write_state(path, {"updates": 2})

    assert read_state(path) == {"updates": 2}
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_a_write_that_runs_out_of_room_leaves_the_old_state(path):
    resource = pytest.importorskip("resource")
    write_state(path, {"updates": 1})
    before, (soft, hard) = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(BadCheckpoint, match=r"state\.safetensors cannot be written"):
            write_state(path, {"updates": 2, "model": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert path.read_bytes() == before
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_a_state_that_cannot_take_its_place_leaves_nothing_behind(path):
    path.mkdir()
    with pytest.raises(BadCheckpoint, match="cannot be written"):
        write_state(path, {"updates": 1})
    with pytest.raises(BadCheckpoint, match="cannot be written"):
        write_state(path.parent / "nowhere" / "state", {"updates": 1})

    assert [each.name for each in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("state", "error", "told"),
    [
        ({"a": [1, object()]}, TypeError, "a.1 is a object, which a state cannot hold"),
        ({"a": {(1, 2): 0}}, TypeError, r"a has the key \(1, 2\)"),
        ({"a": {None: 0}}, TypeError, "a has the key None"),
        ({"a": torch.ones(1, dtype=torch.complex128)}, BadCheckpoint, "torch.complex128"),
    ],
)
def test_what_cannot_be_kept_exactly_is_refused_and_the_old_state_stays(path, state, error, told):
    write_state(path, {"updates": 1})
    with pytest.raises(error, match=told):
        write_state(path, state)

    assert read_state(path) == {"updates": 1}


def test_only_a_state_says_that_it_is_one(path):
    write_state(path, {"updates": 1})
    other, text = path.with_name("model.safetensors"), path.with_name("notes.txt")
    save_file({"weight": torch.ones(3)}, other)
    text.write_text("unstick/training/1")
    header = json.dumps({"__metadata__": {"format": "unstick/training/999"}}).encode()
    newer = path.with_name("newer.safetensors")
    newer.write_bytes(struct.pack("<Q", len(header)) + header)
    odd = path.with_name("odd.safetensors")
    odd.write_bytes(struct.pack("<Q", 2) + b"[]")

    assert is_state(path)
    assert is_state(newer)  # of a later version: read_state says so
    for path_of_none in (other, text, odd, path.parent, path.with_name("missing")):
        assert not is_state(path_of_none)
    with pytest.raises(
        BadCheckpoint, match=f"format is 'unstick/training/999', expected '{FORMAT}'"
    ):
        read_state(newer)
    with pytest.raises(BadCheckpoint, match="format is None"):
        read_state(other)


def test_what_is_no_state_is_refused(path):
    with pytest.raises(BadCheckpoint, match=r"state\.safetensors does not exist"):
        read_state(path)
    write_state(path, {"a": torch.ones(100)})
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BadCheckpoint, match="is not the state of a training"):
        read_state(path)
    for tree in ("[", '{"tensor": "a"}', '{"map": 1}', '{"map": [[[1], 2]]}', "{}"):
        save_file({}, path, metadata={"format": FORMAT, "state": tree})
        with pytest.raises(BadCheckpoint, match="is not the state of a training"):
            read_state(path)
