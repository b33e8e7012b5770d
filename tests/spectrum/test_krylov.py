"""Laws of the Krylov space."""

import pytest
import torch

from cases_spectra import CLUSTERED, DTYPES, REPEATED, SADDLE, STIFF, TINY_NEGATIVE, Wrapped, rng
from unstick.errors import NonFinite
from unstick.spectrum.basis import Basis
from unstick.spectrum.krylov import WARMTH, Krylov, gaussian
from unstick.spectrum.operator import DenseOperator

CASES = [SADDLE, CLUSTERED, STIFF, TINY_NEGATIVE]


def relation_error(space, matrix):
    """Largest entry of A V[:, :p] − V T."""
    V = space.basis.block(0, space.basis.size).double()
    return float((matrix.double() @ V[:, : space.multiplied] - V @ space.projected).abs().max())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("block", [1, 3])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_projection_reproduces_the_products(case, block, dtype):
    matrix = case.matrix(0, dtype)
    space = Krylov(DenseOperator(matrix), generator=rng(0), block=block)

    for step in range(30):
        space.expand(2 if step % 5 == 1 else None)  # a part of the frontier, too
        if space.basis.size > 40 or not space.frontier:
            break
        if step % 8 == 7:
            space.restart(space.ritz().coordinates[:, [0, 1, 2, -2, -1]])

    assert relation_error(space, matrix) <= 10 * space.noise_floor
    V = space.basis.block(0, space.basis.size).double()
    assert torch.allclose(V.T @ V, torch.eye(V.shape[1]).double(), atol=50 * torch.finfo(dtype).eps)


def starts(space):
    return space.basis.combine(space.start_coordinates)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_random_starts_are_known_in_the_basis(case):
    operator = case.operator(0)

    space = Krylov(operator, generator=rng(0), block=2)

    assert torch.allclose(starts(space), gaussian(operator, 2, generator=rng(0)))


def test_a_warm_start_is_the_mean_of_the_random_one():
    dim, trials = 60, 400
    warm = torch.randn(dim, 3, generator=rng(9), dtype=torch.float64)
    unit = warm / warm.norm(dim=0)
    means = torch.stack([unit[:, 0] + unit[:, 2], unit[:, 1]], dim=1)  # dealt out to two starts
    means *= WARMTH * dim**0.5 / means.norm(dim=0)

    spaces = [
        Krylov(SADDLE.operator(0), generator=rng(seed), block=2, warm=100 * warm)
        for seed in range(trials)
    ]

    noise = torch.stack([starts(space) for space in spaces]) - means
    assert spaces[0].frontier == 2  # a step takes no more products than a cold one
    assert spaces[0].start_square == (1 + WARMTH**2) * dim
    assert float(noise.mean(0).abs().max()) < 5 / trials**0.5
    assert abs(float(noise.square().mean()) - 1) < 5 * (2 / noise.numel()) ** 0.5


def test_what_an_equal_seed_has_drawn_before_is_not_drawn_again():
    """Else the mean of a start would know the random part: it was computed from it."""
    operator, ones = SADDLE.operator(0), torch.ones(60).double()
    slightly = ones.clone()
    slightly[3] += 1e-15

    cold, warm, again, other = (
        starts(Krylov(operator, generator=rng(0), warm=start))
        for start in (None, ones, ones, slightly)
    )

    assert torch.equal(warm, again)
    assert float((warm - WARMTH * ones[:, None] - cold).abs().max()) > 1
    assert float((warm - other).abs().max()) > 1


def test_steps_count_only_until_the_first_restart():
    space = Krylov(STIFF.operator(0), generator=rng(0), block=2)
    for _ in range(4):
        space.expand()
    space.restart(space.ritz().coordinates[:, :3])
    space.expand()

    assert (space.unrestarted, space.products, space.multiplied) == (4, 10, 5)


def test_each_injection_shows_one_more_copy():
    exact = torch.diag(torch.tensor(REPEATED.eigenvalues).double())
    space = Krylov(DenseOperator(exact), generator=rng(0))
    for copies in (1, 2, 3):
        while space.frontier:
            space.expand()
        values = space.ritz().values
        assert int((values < -0.5).sum()) == copies
        assert int((values > 1.5).sum()) == copies
        space.inject()

    assert space.discarded <= space.noise_floor


@pytest.mark.parametrize("dim", [50, 400])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_noise_floor_covers_the_error_of_ritz_values_and_does_not_dwarf_it(dim, dtype):
    """The factor in NOISE_FACTOR: eigenvalues that are zero must come out inside ±noise_floor."""
    for seed in range(5):
        half = torch.randn(dim, dim // 4, generator=rng(seed), dtype=torch.float64)
        A = ((half @ half.T) / dim).to(dtype)
        space = Krylov(DenseOperator(A), generator=rng(seed), block=3)
        while space.frontier and space.multiplied < dim:
            space.expand()
        worst = -float(space.ritz().values.min())

        assert worst <= space.noise_floor
        assert space.noise_floor <= 30 * torch.finfo(dtype).eps * space.scale


def test_a_failed_product_leaves_the_space_as_it_was():
    space = Krylov(Wrapped(SADDLE.matrix(0), nan_at=4), generator=rng(0))
    for _ in range(3):
        space.expand()
    before = space.ritz().values
    with pytest.raises(NonFinite, match="product 4 "):
        space.expand()

    assert torch.equal(space.ritz().values, before)
    assert (space.products, space.frontier) == (3, 1)


def test_an_interruption_outside_a_product_leaves_the_space_as_it_was_too(monkeypatch):
    space = Krylov(SADDLE.operator(0), generator=rng(0), block=2)
    space.expand()
    before, lengths = space.ritz().values, Basis.lengths

    def interrupted(basis, W):
        if basis.size > 4:  # after the first of the two new columns
            raise KeyboardInterrupt
        return lengths(basis, W)

    monkeypatch.setattr(Basis, "lengths", interrupted)
    with pytest.raises(KeyboardInterrupt):
        space.expand()

    assert torch.equal(space.ritz().values, before)
    assert (space.basis.size, space.multiplied, space.products) == (4, 2, 2)


def test_an_empty_frontier_cannot_be_multiplied():
    space = Krylov(DenseOperator(torch.eye(3).double()), generator=rng(0))
    space.expand()

    with pytest.raises(ValueError, match="nothing to multiply"):
        space.expand()


def test_no_random_start_is_refused():
    with pytest.raises(ValueError, match="random start"):
        Krylov(SADDLE.operator(0), generator=rng(0), block=0)
