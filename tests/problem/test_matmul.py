"""float32 products of matrices keep all their digits, whichever kernel makes them."""

import pytest
import torch

from unstick.problem import matmul
from unstick.problem.matmul import fast_and_exact, onednn_is_exact

SWITCH = torch.backends.mkldnn.matmul


@pytest.mark.parametrize("rows", [1, 7, 300, 5000])
@pytest.mark.parametrize("inner", [3, 128, 784])
def test_products_inside_are_exact_to_float32(rows, inner):
    generator = torch.Generator().manual_seed(rows + inner)
    A = torch.randn(rows, inner, generator=generator)
    B = torch.randn(65, inner, generator=generator)
    reference = A.double() @ B.double().T
    with fast_and_exact(torch.device("cpu")):
        product = A @ B.T

    assert float((product.double() - reference).norm() / reference.norm()) < 1e-6


@pytest.mark.parametrize("word", ["none", "ieee", "bf16"])
def test_the_switch_is_put_back(word):
    try:
        SWITCH.fp32_precision = word
        seen = SWITCH.fp32_precision
        with pytest.raises(ZeroDivisionError), fast_and_exact(torch.device("cpu")):
            raise ZeroDivisionError

        assert SWITCH.fp32_precision == seen
    finally:
        SWITCH.fp32_precision = "none"


def test_a_kernel_that_drops_digits_is_not_used(monkeypatch):
    monkeypatch.setattr(matmul, "_foreign", lambda: True)
    # three digits, as bfloat16 factors keep
    monkeypatch.setattr(matmul, "_error", lambda *_: 2e-3)
    onednn_is_exact.cache_clear()
    try:
        assert not onednn_is_exact()
        with fast_and_exact(torch.device("cpu")):
            assert SWITCH.fp32_precision != "bf16"
    finally:
        onednn_is_exact.cache_clear()


def test_nothing_changes_on_other_devices():
    with fast_and_exact(torch.device("cuda")):
        assert SWITCH.fp32_precision == "none"
