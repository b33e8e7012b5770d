"""Flatness is what the formulas say, and gradient-flat is said of planted kernels only."""

import numpy as np
import pytest
import torch

from cases import frye
from unstick.critical.flatness import flatness_by_products, flatness_of, measure_flatness
from unstick.problem.problem import Problem
from unstick.spectrum.operator import DenseOperator


def planted(eigenvalues, coefficients, seed=0):
    """H and g with these eigenvalues and parts."""
    generator = torch.Generator().manual_seed(seed)
    Q, _ = torch.linalg.qr(
        torch.randn(len(eigenvalues), len(eigenvalues), generator=generator).double()
    )
    values = torch.tensor(eigenvalues, dtype=torch.float64)
    return (Q * values) @ Q.T, Q @ torch.tensor(coefficients, dtype=torch.float64)


FLAT = {
    "all in the kernel": ([0.0, 0.0, 3.0, -5.0], [1.0, 2.0, 0.0, 0.0]),
    "nearly in the kernel": ([1e-5, -1e-6, 3.0, -5.0], [1.0, 2.0, 1e-3, 1e-3]),
    "tiny but flat": ([0.0, 1.0, 3.0, -5.0], [1e-6, 1e-9, 0.0, 0.0]),
    "no curvature at all": ([0.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]),
}
CURVED = {
    "all on stiff directions": ([1.0, 2.0, 3.0, -5.0], [1.0, 1.0, 1.0, 1.0]),
    "half in the kernel": ([0.0, 2.0, 3.0, -5.0], [1.0, 1.0, 0.0, 0.0]),
    "soft, not flat": ([0.05, 2.0, 3.0, -5.0], [1.0, 0.0, 0.0, 0.0]),
    "no gradient": ([0.0, 2.0, 3.0, -5.0], [0.0, 0.0, 0.0, 0.0]),
}


@pytest.mark.parametrize("name", [*FLAT, *CURVED])
def test_gradient_flat_is_said_of_gradients_in_the_kernel_only(name):
    H, g = planted(*(FLAT | CURVED)[name])

    exact = flatness_of(H, g)
    estimated = flatness_by_products(
        DenseOperator(H), g, generator=torch.Generator().manual_seed(0)
    )

    assert exact.flat == estimated.flat == (name in FLAT), (exact, estimated)
    assert exact.exact
    assert not estimated.exact
    assert estimated.kernel_energy is None


@pytest.mark.parametrize("seed", range(4))
def test_the_numbers_are_those_of_their_formulas(seed):
    values = [0.0, 1e-5, 0.4, -2.0, 7.0, 0.002]
    parts = np.random.default_rng(seed).normal(size=6).tolist()
    H, g = planted(values, parts, seed)
    A, b = H.numpy(), g.numpy()

    found = flatness_of(H, g)

    w, V = np.linalg.eigh(A)
    norm = np.linalg.norm(A)
    seen = np.abs(w) > 5e-4 * norm
    p = -(V[:, seen] / w[seen]) @ (V[:, seen].T @ b)
    rest = A @ p + b
    r = np.linalg.norm(rest) / (norm * np.linalg.norm(p) + np.linalg.norm(b))
    kernel = V[:, np.abs(w) < 1e-3 * np.abs(w).max()]
    assert found.residual_ratio == pytest.approx(r, rel=1e-9)
    assert found.co_kernel_ratio == pytest.approx(
        np.linalg.norm(A @ rest) / (norm * np.linalg.norm(rest)), rel=1e-6
    )
    assert found.kernel_energy == pytest.approx(
        np.sum((kernel.T @ b) ** 2) / np.sum(b**2), rel=1e-9
    )
    assert found.rayleigh == pytest.approx(b @ A @ b / (b @ b), rel=1e-9)
    assert found.hessian_norm == pytest.approx(norm, rel=1e-12)


@pytest.mark.parametrize("scale", [1e-8, 1e8])
def test_ratios_do_not_depend_on_the_scale_of_the_loss(scale):
    H, g = planted([0.0, 0.01, 3.0, -5.0], [1.0, 0.3, 0.2, 0.1])

    one, other = flatness_of(H, g), flatness_of(scale * H, scale * g)

    for name in ("residual_ratio", "kernel_energy"):
        assert getattr(other, name) == pytest.approx(getattr(one, name), rel=1e-9)


def test_the_estimated_norm_is_right_on_the_average():
    H, g = planted(list(range(1, 21)), [1.0] * 20)
    norms = [
        flatness_by_products(
            DenseOperator(H), g, generator=torch.Generator().manual_seed(seed), probes=8
        ).hessian_norm
        ** 2
        for seed in range(60)
    ]

    expected = float(H.square().sum())
    error = np.std(norms) / len(norms) ** 0.5
    assert abs(np.mean(norms) - expected) < 4 * error
    assert error < 0.05 * expected


@pytest.mark.parametrize(("x", "flat"), [(2**0.5, True), (-(2**0.5), True), (1.0, False)])
def test_the_quartic_is_gradient_flat_where_its_second_derivative_vanishes(x, flat):
    problem = Problem.from_function(frye, torch.tensor([x, 0.0], dtype=torch.float64))

    found = measure_flatness(problem)

    assert found.flat == flat
    assert found.outcome == ("gradient-flat" if flat else "curved")
    assert found.gradient_norm_squared == pytest.approx((x**3 - 6 * x + 9) ** 2)
    assert ("Gradient-flat" in str(found)) == flat
