"""IDX files: what is written is read back, and whatever is damaged is refused in one line."""

import gzip
from math import prod

import pytest
import torch

from unstick.data.idx import read_idx
from unstick.errors import BadData


def idx(shape, values=None, magic=None):
    values = bytes(range(256)) * (prod(shape) // 256 + 1) if values is None else values
    header = bytes([0, 0, 8, len(shape)]) if magic is None else magic
    return header + b"".join(n.to_bytes(4, "big") for n in shape) + values[: prod(shape)]


@pytest.fixture
def file(tmp_path):
    return tmp_path / "array.gz"


@pytest.mark.parametrize("shape", [(7,), (3, 2, 5), (1, 28, 28)], ids=str)
def test_what_is_written_is_read_back(file, shape):
    file.write_bytes(gzip.compress(idx(shape)))

    found = read_idx(file, axes=len(shape))

    assert found.dtype == torch.uint8
    assert found.shape == shape
    assert found.flatten().tolist() == [k % 256 for k in range(prod(shape))]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (idx((2, 2, 2)), "is not a whole gzip file"),
        (gzip.compress(idx((2, 2, 2)))[:-12], "is cut off"),
        (gzip.compress(b""), "begins with nothing"),
        (gzip.compress(idx((8,))), "begins with 00000801, expected 00000803"),
        (gzip.compress(idx((2, 2, 2), magic=b"\0\0\x0d\3")), "begins with 00000d03"),
        (
            gzip.compress(idx((2, 2, 2))[:-1]),
            "declares 2 × 2 × 2 = 8 bytes after its header and holds 7",
        ),
        (gzip.compress(idx((2, 2, 2)) + b"x"), "holds 9"),
        (gzip.compress(idx((2, 2, 2))[:6]), "holds 0"),
        (gzip.compress(idx((0, 28, 28))), "holds no sample"),
    ],
    ids=["plain", "cut", "empty", "labels", "floats", "short", "long", "header only", "no sample"],
)
def test_a_damaged_file_is_refused_in_one_line_that_names_it(file, content, says):
    file.write_bytes(content)

    with pytest.raises(BadData) as refusal:
        read_idx(file, axes=3)

    assert says in str(refusal.value)
    assert str(file) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_corrupt_gzip_stream_is_refused(file):
    content = bytearray(gzip.compress(idx((4, 28, 28))))
    content[20:60] = b"\xff" * 40
    file.write_bytes(content)

    with pytest.raises(BadData, match="is not a whole gzip file"):
        read_idx(file, axes=3)


def test_a_file_that_is_not_there_is_refused(file):
    with pytest.raises(BadData, match="does not exist"):
        read_idx(file, axes=3)


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(BadData, match="cannot be read"):
        read_idx(tmp_path, axes=3)
