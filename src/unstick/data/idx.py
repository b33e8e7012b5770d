"""The IDX format of MNIST and its kin, gzipped.

Answers: which array of bytes does this file hold, and is it whole?
Does not answer: what the bytes mean.

References:
    Y. LeCun, C. Cortes and C. Burges, The MNIST database of handwritten digits, section "File formats".
"""

import gzip
import math
import zlib
from pathlib import Path

import torch
from torch import Tensor

from unstick.errors import BadData

__all__ = ["read_idx"]

UNSIGNED_BYTE = 0x08  # the type code of the only element type these data sets use


def read_idx(path: Path, *, axes: int) -> Tensor:
    """Read one gzipped IDX file of unsigned bytes, and refuse it unless it is whole.

    Args:
        path: The ``.gz`` file.
        axes: How many axes the array must have: 1 for labels, 3 for images.

    Returns:
        The array as uint8, in the shape that the file declares.

    Raises:
        BadData: The file is not there, not gzip, cut off, not IDX of unsigned bytes, of another number of axes, or
            longer or shorter than its header says.
    """
    content = _unzipped(path)
    expected = bytes([0, 0, UNSIGNED_BYTE, axes])
    if content[:4] != expected:
        raise BadData(
            f"{path} is not an IDX file of unsigned bytes with {axes} axes: it begins with "
            f"{content[:4].hex() or 'nothing'}, expected {expected.hex()}; fetch it again"
        )
    start = 4 + 4 * axes
    shape = [int.from_bytes(content[at : at + 4], "big") for at in range(4, start, 4)]
    declared, found = math.prod(shape), len(content) - start
    if found != declared:
        raise BadData(
            f"{path} declares {' × '.join(map(str, shape))} = {declared:,} bytes after its header and "
            f"holds {max(found, 0):,}; fetch it again"
        )
    if declared == 0:
        raise BadData(f"{path} declares {' × '.join(map(str, shape))}: it holds no sample")
    return torch.frombuffer(bytearray(content[start:]), dtype=torch.uint8).reshape(shape)


def _unzipped(path: Path) -> bytes:
    try:
        with gzip.open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        raise BadData(f"{path} does not exist") from None
    except EOFError:
        raise BadData(f"{path} is cut off: its gzip stream does not end; fetch it again") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise BadData(f"{path} is not a whole gzip file ({error}); fetch it again") from None
    except OSError as error:
        raise BadData(f"{path} cannot be read: {error.strerror or error}") from None
