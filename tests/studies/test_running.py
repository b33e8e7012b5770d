"""Wherever arms run, the table is the same; whatever ends a run, what was finished is kept."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from textwrap import dedent

import pytest

from unstick.errors import UnstickError
from unstick.studies.frame import (
    Setting,
    Store,
    Verdict,
    cluster,
    find_study,
    results_of,
    run_study,
)
from unstick.studies.frame.store import BadStore

COINS = """
    import os
    import torch
    from unstick.studies.frame import Arm, Decision, Study, Verdict


    def arms(setting):
        return [Arm(str(sides), {"sides": sides}) for sides in (2, 6, 0)]


    def measure(task):
        if task.arm["sides"] == 0:
            FAILING
        draws = torch.randn(50, generator=task.generator(), dtype=torch.float64)
        share = float("nan") if task.arm["sides"] == 2 else float("inf")
        return {"mean": float(draws.softmax(0) @ draws) / 3, "draws": draws, "share": share}


    def decide(table):
        return Decision(Verdict.SUPPORTED, "They are.")


    STUDY = Study(
        name="coins", claim="Coins are fair", source="a test", question="Are they?", measured="draws",
        rule="Supported", criticism="None", arms=arms, measure=measure, decide=decide,
        pictures=lambda table: [], seeds=(2, 2), takes=("data", "model"),
    )
"""


@pytest.fixture
def coins(tmp_path):
    """A study whose last arm does what is said."""

    def made(failing="raise ValueError('no sides')"):
        path = tmp_path / "coins.py"
        path.write_text(dedent(COINS).replace("FAILING", failing))
        return find_study(str(path))

    return made


def table(told):
    """All but the seconds; repr tells nan from nan and every bit of a float."""
    return [(row.arm, row.seed, repr(dict(row.values)), row.failed) for row in told.rows]


@pytest.fixture(scope="module")
def port(tmp_path_factory):
    """A cluster of two workers, started beside in another folder."""
    pytest.importorskip("ray")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"]
    command += ["--num-cpus", "2", "--port", str(port), "--include-dashboard", "false"]
    folder = tmp_path_factory.mktemp("elsewhere")
    beside = subprocess.Popen(
        [*command, "--disable-usage-stats"],
        cwd=folder,
        env=os.environ | {"RAY_AUTH_MODE": "disabled"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    give_up = time.monotonic() + 60
    while time.monotonic() < give_up:
        with socket.socket() as there:
            if there.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.2)
    yield port
    beside.terminate()
    beside.wait()


@pytest.mark.slow
def test_a_ray_of_this_machine_gives_the_table_of_one_process(coins, capfd):
    ray = pytest.importorskip("ray")
    here = run_study(coins(), Setting(), backend="here")

    there = run_study(coins(), Setting(), backend="ray", jobs=2)

    assert table(here) == table(there)
    assert sum(bool(row.failed) for row in there.rows) == 2
    assert not ray.is_initialized()
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_a_cluster_gives_the_table_of_one_process(coins, port, tmp_path, monkeypatch, capfd):
    ray = pytest.importorskip("ray")
    coins()
    monkeypatch.chdir(tmp_path)  # the cluster was started in another folder
    study = find_study("coins.py")
    here = run_study(study, Setting(), backend="here")

    there = run_study(study, Setting(), backend="ray", address=f"127.0.0.1:{port}")

    assert table(here) == table(there)
    assert not ray.is_initialized()
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_interrupted_on_a_cluster_it_keeps_what_is_done(coins, port, tmp_path):
    def stop(_study, done, _planned):
        if done == 2:
            raise KeyboardInterrupt

    study, setting = coins(), Setting()
    where = {"backend": "ray", "address": f"127.0.0.1:{port}", "jobs": 1}

    part = run_study(study, setting, store=tmp_path / "store", progress=stop, **where)
    whole = run_study(study, setting, store=tmp_path / "store", backend="here")

    assert (part.outcome, len(part.rows)) == ("interrupted", 2)
    assert table(whole) == table(run_study(study, setting, backend="here"))


@pytest.mark.slow
def test_a_worker_that_dies_on_a_cluster_loses_its_arm_alone(coins, port):
    study = coins("os._exit(1)")

    told = run_study(study, Setting(), backend="ray", address=f"127.0.0.1:{port}")

    assert [bool(row.failed) for row in told.rows] == [False, False, True] * 2
    assert told.rows[2].failed.startswith("LostWorker: its process died")


@pytest.mark.slow
@pytest.mark.parametrize("silent", [True, False], ids=["silent", "closed"])
def test_where_no_cluster_answers_is_refused_within_reasonable_time(coins, silent, monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setattr(cluster, "ANSWER_WITHIN", 4.0)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        if silent:
            other.listen()
        port = other.getsockname()[1]
        begin = time.monotonic()

        with pytest.raises(UnstickError, match=f"no Ray cluster at 127.0.0.1:{port}") as refusal:
            run_study(coins(), Setting(), backend="ray", address=f"127.0.0.1:{port}")

    assert time.monotonic() - begin < 30
    assert "\n" not in str(refusal.value)


def test_what_is_no_address_is_refused(coins):
    pytest.importorskip("ray")
    with pytest.raises(UnstickError, match=r"no Ray cluster at nonsense: .*expected host:port"):
        run_study(coins(), Setting(), backend="ray", address="nonsense")


def test_without_ray_it_says_what_to_install(coins, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)

    with pytest.raises(UnstickError, match=r"pip install 'unstick\[ray\]'"):
        run_study(coins(), Setting(), backend="ray")


def test_a_process_that_dies_is_one_line_and_what_is_kept_stays(coins, tmp_path):
    with pytest.raises(UnstickError, match="a process died while it measured") as refusal:
        run_study(coins("os._exit(1)"), Setting(), store=tmp_path, jobs=2)

    assert "\n" not in str(refusal.value)
    assert all(not row.failed for row in Store.read(tmp_path / "coins.jsonl").rows)


@pytest.mark.slow
def test_a_worker_of_other_code_is_refused(coins, monkeypatch):
    monkeypatch.setattr("unstick.studies.frame.running.code_of", lambda _study: "0" * 16)

    with pytest.raises(UnstickError, match="other code in a worker than here"):
        run_study(coins(), Setting(), jobs=2)


def test_when_every_arm_fails_nothing_is_found(coins, tmp_path):
    path = tmp_path / "none.py"
    path.write_text(
        dedent(COINS).replace('task.arm["sides"] == 0', "True").replace("FAILING", "1 / 0")
    )

    told = run_study(find_study(str(path)), Setting(), backend="here")

    assert told.verdict == Verdict.INCONCLUSIVE
    assert told.headline().endswith("(every arm failed: nothing was measured).")
    assert "the first by ZeroDivisionError" in told.said
    one_left = run_study(coins(), Setting(), backend="here")
    assert "every arm failed" not in one_left.headline()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("Decision(Verdict.SUPPORTED", "Decision(Verdict.MAYBE", "deciding raised AttributeError"),
        ("for sides in (2, 6, 0)", "for sides in 3", "naming its arms raised TypeError"),
    ],
)
def test_a_study_of_ones_own_that_raises_is_one_line_with_its_place(tmp_path, old, new, said):
    path = tmp_path / "coins.py"
    path.write_text(dedent(COINS).replace("FAILING", "1 / 0").replace(old, new))
    line = 1 + next(k for k, text in enumerate(path.read_text().splitlines()) if new in text)

    with pytest.raises(UnstickError, match=f"coins.py, line {line}: {said}") as refusal:
        run_study(find_study(str(path)), Setting(), backend="here")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"data": "irsi"}, "no data set is called 'irsi'"),
        ({"model": "64-abc"}, "expected widths"),
        ({"model": "own.py:raising"}, "calling raising raised ValueError: no model"),
        ({"model": "own.py:number"}, "returned int; expected a torch.nn.Module"),
        ({"model": "absent.py:net"}, "absent.py does not exist"),
    ],
)
def test_what_would_fail_in_every_arm_is_refused_before_the_first(
    coins, tmp_path, monkeypatch, setting, said
):
    monkeypatch.chdir(tmp_path)
    text = "def raising():\n    raise ValueError('no model')\ndef number():\n    return 3\n"
    Path("own.py").write_text(text)

    with pytest.raises(UnstickError, match=said):
        run_study(coins(), Setting(**setting), store=tmp_path / "store", backend="here")
    assert not (
        tmp_path / "store"
    ).exists()  # the right name is not refused by a store of the wrong one


def test_a_store_knows_the_users_model_by_what_is_in_its_file(coins, tmp_path):
    file = tmp_path / "own.py"
    file.write_text("import torch\ndef net():\n    return torch.nn.Linear(2, 2)\n")
    setting = Setting(model=f"{file}:net")
    run_study(coins(), setting, store=tmp_path / "store", backend="here")
    run_study(coins(), setting, store=tmp_path / "store", backend="here")

    file.write_text("import torch\ndef net():\n    return torch.nn.Linear(2, 3)\n")

    with pytest.raises(BadStore, match=r"another model: the file of .*own.py:net has changed"):
        run_study(coins(), setting, store=tmp_path / "store", backend="here")


@pytest.mark.parametrize("left", [0, 1, 40])
def test_a_header_torn_by_a_full_disk_is_written_anew(coins, tmp_path, left):
    run_study(coins(), Setting(), store=tmp_path / "store", backend="here")
    path = tmp_path / "store" / "coins.jsonl"
    path.write_bytes(path.read_bytes()[:left])

    told = run_study(coins(), Setting(), store=tmp_path / "store", backend="here")

    assert len(Store.read(path).rows) == len(told.rows) == 6


def test_what_is_no_store_is_left_alone(coins, tmp_path):
    path = tmp_path / "coins.jsonl"
    path.write_bytes(b"my notes")

    with pytest.raises(BadStore, match="is not a store"):
        run_study(coins(), Setting(), store=tmp_path, backend="here")
    assert path.read_bytes() == b"my notes"


def test_a_line_that_is_no_arm_is_refused_with_its_number(coins, tmp_path):
    run_study(coins(), Setting(), store=tmp_path, backend="here")
    with (tmp_path / "coins.jsonl").open("a") as file:
        file.write('{"arm": "2"}\n')

    with pytest.raises(BadStore, match="damaged in line 8"):
        run_study(coins(), Setting(), store=tmp_path, backend="here")


def test_a_report_does_not_leave_out_arms_whose_data_are_missing(coins, tmp_path):
    study = coins()
    run_study(study, Setting(), store=tmp_path / "store", backend="here")
    path = tmp_path / "store" / "coins.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines, lines[1].replace('"arm": "2"', '"arm": "of far data: 2"')]))

    with pytest.raises(BadStore, match=r"'of far data: 2'.*--data-dir"):
        results_of(tmp_path / "store")
