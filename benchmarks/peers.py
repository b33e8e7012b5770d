"""The peers of ``curvature.py``, each in its best documented way, from seeded random vectors.

They are granted settings tuned per start on the problem itself, by a search that is not timed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast
from unittest.mock import patch

import numpy as np
import pyhessian
import torch
from curvlinops import HessianLinearOperator
from hessian_eigenthings import HessianOperator, lanczos, supervised_loss
from hessian_eigenthings.algorithms.lanczos import lanczos_tridiagonal
from numpy.typing import NDArray
from pyhessian.utils import hessian_vector_product
from reference import HIGHEST, LOWEST, Answer, Batches, Pairs, Reference
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor, nn
from tuning import Counting, Multiply, Remembering, Settings, TooMany, leading, outermost, reached

__all__ = ["Curvlinops", "Eigenthings", "PyHessian"]

MOST_STEPS = 1280  # at which the search for the fewest Lanczos steps gives up
POWER_STEPS = 400  # of power iteration for each eigenvalue, at most


@dataclass
class Eigenthings:
    """hessian-eigenthings: Lanczos with full reorthogonalization and the fewest steps that do."""

    model: nn.Module
    batches: Batches
    name: str = "hessian-eigenthings"
    columns: bool = False
    _longest: int = 80  # steps that the search begins with

    def construct(self) -> HessianOperator:
        return HessianOperator(self.model, self.batches, supervised_loss(nn.CrossEntropyLoss()))

    def tune(self, seed: int, reference: Reference) -> Settings:
        """One long run holds every shorter one: its Ritz pairs are those of the leading block of T."""
        operator = self.construct()
        start = torch.randn(
            operator.size, dtype=operator.dtype, generator=torch.Generator().manual_seed(seed)
        ).to(operator.device)
        settings: Settings = {"steps": self._longest, "k": self._longest}
        while self._longest <= MOST_STEPS:
            run = lanczos_tridiagonal(operator, start, self._longest, reorthogonalize=True)
            for steps in range(HIGHEST + LOWEST, run.iterations):
                if found := leading(run, steps, reference):
                    self._longest = max(80, int(1.2 * steps))
                    return {"steps": steps, "k": found}
            settings = {"steps": self._longest, "k": self._longest}
            self._longest *= 2
        return settings

    def solve(self, made: HessianOperator, seed: int, settings: Settings) -> Answer:
        steps = settings["steps"]
        k = min(settings["k"], steps)
        found = lanczos(made, k=k, max_iter=steps, which="LM", reorthogonalize=True, seed=seed)
        order = found.eigenvalues.argsort(descending=True)
        high, low = order[:HIGHEST], order[-1:]
        values, vectors = found.eigenvalues, found.eigenvectors
        return Answer(
            Pairs(values[high], vectors[high].T), Pairs(values[low], vectors[low].T), steps
        )

    def ladder(self, settings: Settings) -> Sequence[Settings]:
        parts = (0.25, 0.4, 0.55, 0.7, 0.85, 1.0, 1.2)
        counts = [max(8, round(part * settings["steps"])) for part in parts]
        return [{"steps": steps, "k": steps} for steps in counts]  # λmin has another rank in each

    def multiply(self, made: HessianOperator) -> Multiply:
        return made.matvec


@dataclass
class Curvlinops:
    """curvlinops and SciPy's eigsh, with the loosest tolerance and the better of two basis sizes that do."""

    model: nn.Module
    batches: Batches
    name: str = "curvlinops + eigsh"
    columns: bool = True
    _both_at_once: bool | None = None  # decided at the first start

    def construct(self) -> HessianLinearOperator:
        return HessianLinearOperator(
            self.model,
            nn.CrossEntropyLoss(),
            [p for p in self.model.parameters() if p.requires_grad],
            list(self.batches),
            check_deterministic=False,
            num_data=sum(len(targets) for _, targets in self.batches),
        )

    def tune(self, seed: int, reference: Reference) -> Settings:
        operator = Remembering(self.construct().to_scipy())
        high = self._loosest(operator, "LA", HIGHEST, seed, reference)
        low = self._loosest(operator, "SA", LOWEST, seed, reference)
        runs = [high, low]
        if self._both_at_once is None:
            most = high["products"] + low["products"]
            both = self._loosest(operator, "BE", 2 * HIGHEST, seed, reference, most)
            self._both_at_once = both["products"] < most
            runs = [both] if self._both_at_once else runs
        elif self._both_at_once:
            runs = [self._loosest(operator, "BE", 2 * HIGHEST, seed, reference)]
        return {"runs": runs}

    def solve(self, made: HessianLinearOperator, seed: int, settings: Settings) -> Answer:
        operator = Counting(made.to_scipy())
        values: list[NDArray[Any]] = []
        vectors: list[NDArray[Any]] = []
        for run in settings["runs"]:
            found = self._eigsh(operator, run, seed)
            values.append(found[0])
            vectors.append(found[1])
        return outermost(np.concatenate(values), np.concatenate(vectors, axis=1), operator.count)

    def ladder(self, settings: Settings) -> Sequence[Settings]:
        factors = (300.0, 100.0, 30.0, 10.0, 3.0, 1.0, 0.1)
        tolerances = [[min(0.9, f * r["tol"]) for r in settings["runs"]] for f in factors]
        return [
            {"runs": [{**run, "tol": tol} for run, tol in zip(settings["runs"], tols, strict=True)]}
            for tols in tolerances
        ]

    def multiply(self, made: HessianLinearOperator) -> Multiply:
        return lambda V: cast("Tensor", made @ V)

    def _loosest(
        self,
        operator: Remembering,
        which: str,
        k: int,
        seed: int,
        reference: Reference,
        most: int | None = None,
    ) -> Settings:
        """The settings with the fewest products; products are remembered, so only the finest run is paid for."""
        best: Settings | None = None
        for ncv in (None, 40):
            spent = -1
            for tol in (0.3, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001, 0.0005, 0.0002):
                settings = {"which": which, "k": k, "tol": tol, "ncv": ncv}
                operator.begin(most if best is None else best["products"])
                try:
                    values, vectors = self._eigsh(operator, settings, seed)
                except TooMany:
                    break
                if operator.count == spent:  # ARPACK looks only at its restarts: the same answer
                    continue
                spent = operator.count
                if reached(reference, which, values, vectors):
                    best = {**settings, "products": spent}
                    break
        if best is None:
            return {"which": which, "k": k, "tol": 1e-4, "ncv": None, "products": 10**9}
        return best

    def _eigsh(self, operator: Any, run: Settings, seed: int) -> tuple[NDArray[Any], NDArray[Any]]:
        make = cast("Any", LinearOperator)  # its stub is wrong
        A = make(operator.shape, matvec=operator.matvec, dtype=operator.dtype)
        start = np.random.default_rng(seed).standard_normal(A.shape[0]).astype(A.dtype)
        return cast("Any", eigsh)(
            A, k=run["k"], which=run["which"], tol=run["tol"], ncv=run["ncv"], v0=start
        )


@dataclass
class PyHessian:
    """PyHessian: power iteration with deflation; it cannot find λmin."""

    model: nn.Module
    batches: Batches
    name: str = "PyHessian"
    columns: bool = False
    one_batch: bool = True  # all data as one batch: its faster way, with one graph kept throughout
    _tuned: Settings | None = field(default=None)

    def construct(self) -> Any:
        cuda = next(self.model.parameters()).is_cuda
        self.model.zero_grad()  # it keeps its graph in .grad, and would add to the last one
        if not self.one_batch:
            return pyhessian.hessian(
                self.model, nn.CrossEntropyLoss(), dataloader=self.batches, cuda=cuda
            )
        inputs, targets = (torch.cat(parts) for parts in zip(*self.batches, strict=True))
        return pyhessian.hessian(
            self.model, nn.CrossEntropyLoss(), data=(inputs, targets), cuda=cuda
        )

    def tune(self, seed: int, reference: Reference) -> Settings:
        """Tuned at the first start only: its runs are long."""
        if self._tuned is None:
            made = self.construct()
            for tol in (1e-4, 1e-5, 1e-6, 1e-7):
                self._tuned = {"tol": tol, "most": POWER_STEPS}
                answer = self.solve(made, seed, self._tuned)
                if reference.judge(answer).reached() or answer.products >= HIGHEST * POWER_STEPS:
                    break
        assert self._tuned is not None
        return self._tuned

    def solve(self, made: Any, seed: int, settings: Settings) -> Answer:
        torch.manual_seed(seed)  # its starts come from the global generator
        calls = 1 if self.one_batch else 1 + 2 * len(self.batches)  # of zero_grad, a product
        with patch.object(made.model, "zero_grad", wraps=made.model.zero_grad) as counter:
            values, vectors = made.eigenvalues(
                maxIter=settings["most"], tol=settings["tol"], top_n=HIGHEST
            )
        V = torch.stack([torch.cat([p.reshape(-1) for p in v]) for v in vectors], dim=1).detach()
        order = torch.tensor(values).argsort(descending=True)
        return Answer(
            Pairs(torch.tensor(values)[order], V[:, order.to(V.device)]),
            None,
            counter.call_count // calls,
        )

    def ladder(self, settings: Settings) -> Sequence[Settings]:
        return [{**settings, "most": most} for most in (5, 10, 20, 40, 80, 160)]

    def multiply(self, made: Any) -> Multiply:
        shapes = [p.shape for p in made.params]

        def times(v: Tensor) -> Tensor:
            parts = v.split([shape.numel() for shape in shapes])
            folded = [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]
            if self.one_batch:
                product = hessian_vector_product(made.gradsH, made.params, folded)
            else:
                product = made.dataloader_hv_product(folded)[1]
            return torch.cat([p.reshape(-1) for p in product])

        return times
