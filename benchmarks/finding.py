"""What finding critical points costs and finds, beside a naive search in the same run.

Digits, mean-pooled to 4×4, 600 of them, tanh 16-4-10 (118 parameters), cross-entropy with and without a penalty on the
weights, from points that Adam reaches. The naive version takes one start at a time, with the same damping: each step
``autograd.functional.hessian`` and an eigendecomposition; a frugal one keeps both where a step was rejected. Then two
landscapes whose critical points are known by algebra.
"""

import time
from collections import Counter
from collections.abc import Callable
from typing import TypeVar

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.autograd.functional import hessian
from torch.func import functional_call

from unstick import Problem
from unstick.critical.finding import Search, find_critical_point, find_critical_points
from unstick.critical.starts import starts_around

T = TypeVar("T")
UPDATES = (0, 3, 10, 30, 100, 300, 1000, 3000)
SEEDS = (0, 1)
STEPS = 80
DECAY = 0.01  # the loss is cross-entropy + ½·0.01·‖θ‖², which is coupled weight decay of 0.01


def pictures(samples: int = 600) -> tuple[Tensor, Tensor]:
    """Mean-pooled to 4×4, each of the 16 inputs with mean 0 and variance 1."""
    digits = load_digits()
    images = torch.tensor(digits.images).reshape(-1, 4, 2, 4, 2).mean((2, 4)).flatten(1)
    rows = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:samples]
    inputs = images[rows]
    return (inputs - inputs.mean(0)) / inputs.std(0).clamp_min(1e-8), torch.tensor(digits.target)[
        rows
    ]


def network(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(16, 4), nn.Tanh(), nn.Linear(4, 10)).double()


def trained(inputs: Tensor, targets: Tensor, decay: float) -> Tensor:
    """Where Adam at 0.02 is after so many full-batch updates, [seeds · updates, n]."""
    found: list[Tensor] = []
    for seed in SEEDS:
        model = network(seed)
        optimizer = torch.optim.Adam(model.parameters(), 0.02, weight_decay=decay)
        for update in range(max(UPDATES) + 1):
            if update in UPDATES:
                found.append(torch.cat([p.detach().reshape(-1) for p in model.parameters()]))
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), targets).backward()
            optimizer.step()
    return torch.stack(found)


def naive(
    inputs: Tensor, targets: Tensor, starts: Tensor, decay: float, *, frugal: bool
) -> list[float]:
    """The final ‖g‖² of each start."""
    model = network(0)
    shapes = {name: p.shape for name, p in model.named_parameters()}
    sizes = [shape.numel() for shape in shapes.values()]

    def loss(theta: Tensor) -> Tensor:
        pieces = theta.split(sizes)
        named = {name: p.view(shapes[name]) for name, p in zip(shapes, pieces, strict=True)}
        outputs = functional_call(model, named, (inputs,))
        return nn.functional.cross_entropy(outputs, targets) + 0.5 * decay * theta @ theta

    def gradient(theta: Tensor) -> Tensor:
        theta = theta.detach().requires_grad_()
        return torch.autograd.grad(loss(theta), theta)[0]

    squares: list[float] = []
    for start in starts:
        theta, damping, fresh = start.clone(), 1e-2, True
        g = gradient(theta)
        for _ in range(STEPS):
            if fresh or not frugal:
                values, V = torch.linalg.eigh(hessian(loss, theta))
                if (
                    float(g @ g)
                    <= (torch.finfo(g.dtype).eps * float(values.abs().max() * theta.norm())) ** 2
                ):
                    break
            there = theta - V @ (values * (V.T @ g) / (values.square() + damping))
            new = gradient(there)
            fresh = bool(new @ new < g @ g)
            damping = damping / 5 if fresh else damping * 4
            if fresh:
                theta, g = there, new
        squares.append(float(g @ g))
    return squares


def timed(work: Callable[[], T]) -> tuple[float, float, T]:
    """Wall time and processor time of a call, and its result."""
    wall, processor = time.perf_counter(), time.process_time()
    result = work()
    return time.perf_counter() - wall, time.process_time() - processor, result


def table(search: Search) -> None:
    for found in search.founds:
        flat = found.flatness
        kernel = "" if flat is None or flat.kernel_energy is None else f"{flat.kernel_energy:.2f}"
        print(
            f"  {found.start_loss:7.4f} -> {found.loss:7.4f}  {found.outcome:13} {found.ended:9} |g|^2 "
            f"{found.gradient_norm_squared:.1e} (rounding {found.rounding:.0e})  inertia {found.inertia}  "
            f"ratio {found.minimum_ratio:.3f}  in kernel {kernel}"
        )


def minimum_ratio(decay: float) -> None:
    inputs, targets = pictures()
    starts = trained(inputs, targets, decay)
    problem = Problem(network(0), (inputs, targets), nn.CrossEntropyLoss(), weight_decay=decay)
    ours, cpu, search = timed(lambda: find_critical_points(problem, starts, steps=STEPS))
    print(f"digits, weight decay {decay:g}: {search.counts}")
    table(search)
    print(f"  {ours:.1f} s, {cpu:.1f} s of processor")
    for name, frugal in (("naive", False), ("frugal", True)):
        theirs, theirs_cpu, squares = timed(
            lambda f=frugal: naive(inputs, targets, starts, decay, frugal=f)
        )
        alike = sum(
            (found.gradient_norm_squared < 1e-20) == (square < 1e-20)
            for found, square in zip(search.founds, squares, strict=True)
        )
        print(
            f"  {name}: {theirs:.1f} s, {theirs_cpu:.1f} s of processor, {theirs / ours:.1f} and {theirs_cpu / cpu:.1f} "
            f"times ours; {alike} of {len(squares)} starts end on the same side of |g|^2 = 1e-20",
            flush=True,
        )


def autoencoder() -> None:
    """A linear one, 8-2-8, beside each of its 37 kinds of critical points; their inertia is known in closed form."""
    size, code = 8, 2
    variances = torch.arange(1, size + 1, dtype=torch.float64)
    inputs = torch.diag((size * variances).sqrt())
    kinds = [(), *((i,) for i in range(size)), *((i, j) for j in range(size) for i in range(j))]
    for method in ("newton-mr", "levenberg-marquardt"):
        right, ended, worst, begin = 0, Counter[str](), 0.0, time.perf_counter()
        for kept in kinds:
            rows = torch.zeros(code, size, dtype=torch.float64)
            for row, component in enumerate(kept):
                rows[row, component] = 1.0
            model = nn.Sequential(
                nn.Linear(size, code, bias=False), nn.Linear(code, size, bias=False)
            ).double()
            nn.utils.vector_to_parameters(
                torch.cat([rows.flatten(), rows.T.flatten()]), model.parameters()
            )
            rest = [j for j in range(size) if j not in kept]
            r = len(kept)
            negative = sum(j > i for i in kept for j in rest) + (code - r) * (size - r)
            zero = code**2 - (code - r) ** 2
            problem = Problem(model, (inputs, inputs), nn.MSELoss())
            starts = starts_around(problem, count=2, scale=1e-2)
            for found in find_critical_points(problem, starts, method=method).founds:
                right += found.inertia == (2 * code * size - zero - negative, zero, negative)
                ended[found.outcome] += 1
                worst = max(worst, found.gradient_norm_squared)
        print(
            f"autoencoder, {method}: {dict(ended)} of {2 * len(kinds)}, inertia as the formula has it {right}, largest "
            f"|g|^2 {worst:.1e}, {time.perf_counter() - begin:.1f} s"
        )


def quartic() -> None:
    """Frye's function of two variables: critical only at (-3, 0), gradient-flat at (±√2, 0)."""

    def function(x: Tensor) -> Tensor:
        return x[0] ** 4 / 4 - 3 * x[0] ** 2 + 9 * x[0] + 0.9 * x[1] ** 4 + 5 * x[1] ** 2 + 40

    for method in ("newton-mr", "levenberg-marquardt", "gradient-norm"):
        for x in (2**0.5 + 0.01, -2.9):
            problem = Problem.from_function(function, torch.tensor([x, 0.1], dtype=torch.float64))
            found = find_critical_point(problem, method=method)
            at = ", ".join(f"{v:.6f}" for v in found.parameters.tolist())
            print(f"quartic from ({x:.3f}, 0.1), {method}: {found.outcome} at ({at})")


if __name__ == "__main__":
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")
    for penalty in (DECAY, 0.0):
        minimum_ratio(penalty)
    autoencoder()
    quartic()
