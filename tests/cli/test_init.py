"""``unstick init``: the file that it writes works as it is, and nothing is ever written over."""

import json
import os
import runpy

import pytest
import torch

import unstick


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_file_is_stuck_py_where_nothing_else_is_asked(call, here):
    result = call("init")

    assert result.exit_code == 0
    assert [path.name for path in here.iterdir()] == ["stuck.py"]
    assert result.stdout == ""
    assert result.stderr.strip() == (
        "Fill in stuck.py, then: unstick diagnose stuck.py:run --checkpoint model.pt"
    )


def test_the_file_knows_its_own_name(call, tmp_path):
    path = tmp_path / "mine.py"
    call("init", path)
    text = path.read_text(encoding="utf-8")

    assert "unstick diagnose mine.py:run --checkpoint model.pt" in text
    assert "{name}" not in text


def test_the_file_gives_a_run_as_it_is(call, tmp_path):
    call("init", tmp_path / "mine.py")
    written = runpy.run_path(str(tmp_path / "mine.py"))
    run = written["run"]()

    assert isinstance(run, unstick.Run)
    own = {id(p) for p in run.problem.model.parameters()}
    assert {id(p) for group in run.optimizer.param_groups for p in group["params"]} == own
    assert run.batch_size == 32
    again = written["model"]()
    assert all(
        torch.equal(a, b)
        for a, b in zip(again.parameters(), run.problem.model.parameters(), strict=True)
    )


def test_the_history_that_the_file_shows_how_to_write_can_be_read(tmp_path):
    trace = unstick.RunTrace()
    trace.record(loss=0.5, lr=0.1)
    trace.write(tmp_path / "losses.csv")

    assert unstick.RunTrace.read(tmp_path / "losses.csv").loss == [0.5]


def test_what_the_file_says_to_run_runs(call, here):
    call("init")
    model = runpy.run_path("stuck.py")["model"]()
    torch.save(model.state_dict(), "model.pt")
    result = call(
        "diagnose", "stuck.py:run", "--checkpoint", "model.pt", "--budget", "150", "--no-trials", "--json", "-q"
    )  # fmt: skip

    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["type"] == "Diagnosis"
    assert told["cause"] == told["causes"][0]["cause"]


def test_what_is_there_is_never_written_over(call, here):
    (here / "stuck.py").write_text("mine")
    result = call("init")

    assert result.exit_code == 1
    assert result.stderr == (
        "unstick: stuck.py exists and is not written over; choose another name\n"
    )
    assert (here / "stuck.py").read_text() == "mine"


def test_a_place_that_is_not_there_is_one_line(call, tmp_path):
    result = call("init", tmp_path / "nowhere" / "stuck.py")

    assert result.exit_code == 1
    assert "cannot be written: No such file or directory" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_place_that_cannot_be_written_is_one_line(call, tmp_path):
    tmp_path.chmod(0o500)
    result = call("init", tmp_path / "stuck.py")

    assert result.exit_code == 1
    assert "cannot be written: Permission denied" in result.stderr


def test_a_folder_is_wrong_usage(call, tmp_path):
    assert call("init", tmp_path).exit_code == 2
