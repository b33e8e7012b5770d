"""Several processes give the answer of one, and fail together."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from problem.cases import Reference
from problem.processes import CASES, measure, perceptron, points

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
MANY = 2
UNCERTAIN = 1e-5  # of eigenvalues in float32


def environment(**more):
    return {**os.environ, "OMP_NUM_THREADS": "1", **{k: str(v) for k, v in more.items()}}


def started(folder):
    """What each process found, from one start of all of them."""
    found = [folder / f"{rank}.pt" for rank in range(MANY)]
    port = 20_000 + os.getpid() % 20_000
    running = [
        subprocess.Popen(
            [sys.executable, HERE / "processes.py", folder],
            env=environment(
                RANK=rank,
                WORLD_SIZE=MANY,
                LOCAL_RANK=rank,
                MASTER_ADDR="127.0.0.1",
                MASTER_PORT=port,
            ),
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(MANY)
    ]
    said = [process.communicate(timeout=240)[1] for process in running]
    assert all(process.returncode == 0 for process in running), "\n".join(said)
    return [torch.load(path, weights_only=True) for path in found]


@pytest.fixture(scope="session")
def together(tmp_path_factory):
    """One start for all workers that run these tests."""
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    folder, done = root / "processes", root / "processes-done"
    try:
        folder.mkdir()
    except FileExistsError:  # another worker is at it
        deadline = time.monotonic() + 240
        while not done.exists():
            assert time.monotonic() < deadline
            time.sleep(0.2)
        return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(MANY)]
    try:
        return started(folder)
    finally:
        done.touch()


def numbers(found):
    return {name: value for name, value in found.items() if name != "words"}


@pytest.fixture(params=CASES)
def case(request):
    return request.param


def test_all_processes_hold_the_same_bits(together):
    first, *others = (found["measured"] for found in together)

    for other in others:
        for name, measured in other.items():
            assert measured["words"] == first[name]["words"]  # what clocks decide too
            assert_close(numbers(measured), numbers(first[name]), rtol=0, atol=0)


def test_many_processes_give_the_answers_of_one_at_its_cost(together, case):
    shared = numbers(together[0]["measured"][case])

    alone = measure(CASES[case].problem())

    single = case == "float32"
    eigenvalues = shared.pop("eigenvalues"), alone.pop("eigenvalues")
    assert_close(*eigenvalues, rtol=UNCERTAIN if single else 1e-9, atol=0)
    assert_close(shared, alone, rtol=1e-5 if single else 1e-10, atol=1e-6 if single else 1e-12)


def test_the_loss_and_the_eigenvalues_are_those_of_the_dense_reference(together):
    x, y = points()
    naive = Reference(perceptron(), (x, y), torch.nn.CrossEntropyLoss())
    shared = together[0]["measured"]["odd number of samples"]

    H = naive.hessian() + 0.1 * torch.eye(len(naive.theta)).double()
    value = naive(naive.theta) + 0.05 * naive.theta.square().sum()
    exact = torch.linalg.eigvalsh(H)

    assert_close(shared["value"], float(value), rtol=1e-12, atol=0)
    assert_close(shared["gradient"], naive.gradient() + 0.1 * naive.theta)
    assert_close(
        shared["eigenvalues"], torch.cat([exact[:2], exact.flip(0)[:2]]), rtol=1e-9, atol=0
    )
    assert_close(together[0]["differences"], H.sum(1), rtol=1e-6, atol=1e-7)


def test_the_notes_say_how_the_work_was_shared(together):
    notes = {
        name: " ".join(map(str, found["words"])) for name, found in together[0]["measured"].items()
    }

    assert "shared by 2 processes: the samples evenly" in notes["odd number of samples"]
    assert "shared by 2 processes: whole batches" in notes["batch statistics"]
    assert "1 of them have none" in notes["fewer batches than processes"]


def test_a_point_is_of_the_same_kind(together):
    assert together[0]["kind"] == together[1]["kind"] == "not-critical"


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("not finite", "NonFinite: the loss is nan on batch 1 "),
        ("raises", "BadModel: model and loss failed on batch 0 .* no space left"),
        ("parameters", "BadData: the parameters differ between processes 0 and 1 of 2"),
        ("data", "BadData: the data differ .*no DistributedSampler"),
        ("interrupted", "interrupted"),
        ("group", "BadModel: group is 'all'"),
    ],
)
def test_what_fails_in_one_process_fails_in_all(together, what, said):
    for found in together:
        assert_matches(found["failures"][what], said)


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("stale", "StaleOperator"),
        ("classify", "BadModel: classify needs whole parameter vectors"),
        ("kept", "BadModel: Hessian products by mode 'kept' need a graph"),
        ("part", "BadModel: restrict needs whole"),
        ("no root", "BadModel: parameter 1.weight is whole while others are sharded"),
        ("half", "BadModel: parameter 0.weight has type torch.bfloat16"),
        ("shapes", "BadModel: model and loss failed on the first samples"),
    ],
)
def test_what_shards_cannot_do_is_refused_in_one_line(together, what, said):
    for found in together:
        assert_matches(found["sharded"]["refusals"][what], said)
        assert "\n" not in found["sharded"]["refusals"][what]


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float32, 1e-3), (torch.float64, 1e-6)], ids=str)
def test_a_sharded_model_has_the_eigenvalues_of_the_whole_one(together, dtype, rtol):
    naive = Reference(perceptron(), points(), torch.nn.CrossEntropyLoss())
    decay = torch.zeros(len(naive.theta), dtype=torch.float64)
    decay[:20] = 0.1  # of 0.weight
    H = naive.hessian() + torch.diag(decay)
    exact = torch.linalg.eigvalsh(H)
    value = float(naive(naive.theta) + (decay * naive.theta.square()).sum() / 2)
    shards = [found["sharded"][str(dtype)] for found in together]

    assert sum(found["n"][1] for found in shards) == len(H)
    for found in shards:
        assert found["n"][0] == len(H)
        assert_close(found["eigenvalues"], exact[[0, -1, -2]], rtol=rtol, atol=0)
        assert_close(found["value"], value, rtol=1e-6, atol=0)
        assert_close(found["values"], torch.tensor([value, value]).double(), rtol=1e-6, atol=0)
        gradient = naive.gradient() + decay * naive.theta
        assert_close(found["gradient"].double(), gradient, rtol=1e-5, atol=1e-6)
        top = found["top"].double()
        assert_close(top @ H @ top, exact[-1], rtol=rtol, atol=0)
        samples, products, gradients = found["cost"]
        assert samples == 37
        assert gradients >= 2 * products
        assert found["untouched"]


def test_a_sharded_model_is_put_back_after_an_error(together):
    for found in together:
        assert found["sharded"]["after an error"] == ["broken", True]
        assert found["sharded"]["density on disk"]


def test_the_example_prints_both_ways_of_sharing_once(together):
    heads = re.findall(r"Eigenvalues from −(\S+) to (\S+)\.", together[0]["said"])

    assert together[1]["said"] == ""
    shared, shards = (torch.tensor([float(x) for x in head]) for head in heads)
    assert_close(shards, shared, rtol=2e-3, atol=0)


def assert_matches(text, pattern):
    assert re.search(pattern, text), text


@pytest.mark.slow
def test_the_command_prints_once_under_torchrun(tmp_path):
    (tmp_path / "stuck.py").write_text(
        "import sys\n"
        f"sys.path.insert(0, {str(HERE.parent)!r})\n"
        "from problem.processes import CASES\n"
        "def problem():\n"
        "    return CASES['odd number of samples'].problem()\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--master-port", str(20_000 + (os.getpid() + 7_001) % 20_000)]
    command += ["-m", "unstick.cli.main", "spectrum", "stuck.py:problem", "--html", "page.html"]

    done = subprocess.run(
        command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Eigenvalues from") == 1
    assert done.stderr.count("The report is in page.html.") == 1
    assert (tmp_path / "page.html").stat().st_size > 1000
