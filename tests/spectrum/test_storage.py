"""Wherever a basis is kept, and in however many parts, it is the same basis."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
import torch
from torch.testing import assert_close

from cases_spectra import DTYPES, SADDLE, rng
from unstick.spectrum import DenseOperator, Shard, Storage, density, ends
from unstick.spectrum.basis import Basis

CPU = torch.device("cpu")


def found(operator, storage):
    return ends(
        operator,
        generator=rng(0),
        lowest=2,
        highest=2,
        max_basis=24,
        max_products=50,
        storage=storage,
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("place", ["cpu", "disk"])
def test_every_place_gives_the_same_bits(place, dtype, tmp_path):
    operator = DenseOperator(SADDLE.matrix(0, dtype))
    storage = Storage(place, folder=tmp_path if place == "disk" else None)

    there, here = found(operator, storage), found(operator, None)

    assert torch.equal(there.ritz_values, here.ritz_values)
    assert torch.equal(there.lowest.vectors, here.lowest.vectors)
    assert there.products == here.products > 24  # past a restart


def test_a_file_has_no_name_that_could_stay(tmp_path, monkeypatch):
    sizes = []
    mapped = torch.from_file

    def seen(name, **options):
        sizes.append(Path(name).stat().st_size)
        assert tmp_path in Path(name).parents
        return mapped(name, **options)

    monkeypatch.setattr(torch, "from_file", seen)
    basis = Basis(
        1000, dtype=torch.float64, device=CPU, capacity=2, storage=Storage("disk", folder=tmp_path)
    )
    W = torch.randn(1000, 5, generator=rng(0), dtype=torch.float64)
    basis.absorb(W, floor=0.0)

    assert sizes == [2 * 8000, 4 * 8000, 8 * 8000]
    assert list(tmp_path.iterdir()) == []
    V = basis.block(0, 5)
    assert_close(V.T @ V, torch.eye(5).double())


def test_nothing_stays_after_an_error(tmp_path, monkeypatch):
    def full(*_arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)

    with pytest.raises(OSError, match="No space left"):
        Basis(1000, dtype=torch.float64, device=CPU, storage=Storage("disk", folder=tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"place": "tape"}, "expected one of device, cpu, disk"),
        ({"place": "cpu", "folder": "/"}, "only goes with place='disk'"),
        ({"place": "disk", "folder": "/no/such/folder"}, "does not exist"),
    ],
)
def test_a_storage_that_cannot_be_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        Storage(**given)


class Team:
    """Threads in the place of processes: each adds its part, and all get the same sum."""

    def __init__(self, size):
        self._barrier, self._parts = Barrier(size), [None] * size

    def sum(self, rank, part):
        self._parts[rank] = part
        self._barrier.wait()
        total = sum(self._parts[1:], self._parts[0])
        self._barrier.wait()
        return total


class Rows:
    """This process's rows of A v, which takes the whole of v."""

    def __init__(self, matrix, rows, team, rank):
        self.dim, self.dtype, self.device = len(matrix), matrix.dtype, CPU
        self._matrix, self._rows, self._team, self._rank = matrix, rows, team, rank

    def matvec(self, v):
        return self.matmat(v[:, None])[:, 0]

    def matmat(self, V):
        whole = torch.zeros(self.dim, V.shape[1], dtype=V.dtype)
        whole[self._rows] = V
        return (self._matrix @ self._team.sum(self._rank, whole))[self._rows]


SHARDS = [slice(0, 35), slice(35, 35), slice(35, 60)]  # one process has nothing


def in_parts(matrix, search):
    """What a search finds in each of three shards."""
    team = Team(len(SHARDS))

    def work(rank):
        rows = SHARDS[rank]
        shard = Shard(rows.stop - rows.start, rank, lambda part: team.sum(rank, part))
        return search(Rows(matrix, rows, team, rank), Storage(shard=shard))

    with ThreadPoolExecutor(len(SHARDS)) as pool:
        return list(pool.map(work, range(len(SHARDS))))


def test_shards_find_the_spectrum_and_each_a_part_of_the_vectors():
    matrix = SADDLE.matrix(0)
    exact = torch.linalg.eigvalsh(matrix)

    parts = in_parts(matrix, lambda operator, storage: found(operator, storage))

    whole = torch.cat([part.highest.vectors for part in parts])
    assert_close(whole.T @ whole, torch.eye(2).double())
    assert_close(matrix @ whole[:, 0], exact[-1] * whole[:, 0], rtol=0, atol=1e-4)
    for part in parts:
        assert torch.equal(part.ritz_values, parts[0].ritz_values)
        assert abs(part.highest.values[0] - exact[-1]) <= part.highest.residuals[0] + 1e-10
        assert part.lambda_min.low <= exact[0] <= part.lambda_min.high + 1e-12


def test_random_starts_of_shards_are_independent_and_seeded():
    matrix = SADDLE.matrix(0)

    def start(operator, storage):
        from unstick.spectrum.krylov import gaussian

        return [gaussian(operator, 3, generator=rng(5), shard=storage.shard) for _ in range(2)]

    first, again = zip(*in_parts(matrix, start), strict=True)

    assert [len(part) for part in first] == [35, 0, 25]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0][:25], first[2])
    assert 0.7 < float(torch.cat(first).std()) < 1.3


def test_a_warm_start_of_shards_is_felt_in_all_of_them():
    matrix = SADDLE.matrix(0)
    vector = torch.linalg.eigh(matrix).eigenvectors[:, -1:] * 1e150  # its square is not finite

    def residual(warm):
        def search(operator, storage):
            rows = SHARDS[storage.shard.rank]
            start = vector[rows] if warm else None
            return ends(operator, generator=rng(0), start=start, max_products=8, storage=storage)

        parts = {float(part.highest.residuals[0]) for part in in_parts(matrix, search)}
        assert len(parts) == 1
        return parts.pop()

    assert residual(warm=True) < 1e-2 * residual(warm=False)


def test_a_density_is_the_same_from_a_file():
    operator = SADDLE.operator(0)

    plain, filed = (
        density(operator, generator=rng(0), starts=2, steps=8, storage=storage)
        for storage in (None, Storage("disk"))
    )

    assert torch.equal(plain.density, filed.density)


@pytest.mark.parametrize("columns", [1, 3])
def test_a_float32_remainder_is_as_orthogonal_as_float64_sums_make_it(columns):
    basis = Basis(20_000, dtype=torch.float32, device=CPU)
    basis.absorb(torch.randn(20_000, 40, generator=rng(0)), floor=0.0)
    W = torch.randn(20_000, columns, generator=rng(1)) + 1e4 * basis.block(0, columns)

    split = basis.project(W)

    V, R = basis.block(0, 40).double(), split.remainder.double()
    eps = torch.finfo(torch.float32).eps
    assert float((V.T @ R).abs().max()) < eps * float(R.norm())
    rebuilt = V @ split.coefficients + R
    assert float((rebuilt - W.double()).norm()) < 2 * eps * float(W.double().norm())
