"""``unstick study``: ten kills lose nothing, halves make the whole, and what cannot be done is one line."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SHORT = ["ravine", "--quick", "--seeds", "12"]
FAILING = """
from unstick.studies.frame import Arm, Decision, Study, Verdict

def measure(task):
    if task.arm.name in BROKEN:
        raise ValueError("broken")
    return {"x": float("inf") if task.arm.name == "one" else 1.0}

STUDY = Study(name="two", claim="One is two", source="a test", question="Is it?", measured="x", rule="Supported",
    criticism="None", arms=lambda setting: [Arm("one"), Arm("two")], measure=measure,
    decide=lambda table: Decision(Verdict.SUPPORTED, "It is."), pictures=lambda table: [], seeds=(2, 2))
"""


@pytest.fixture
def two(tmp_path):
    def made(*broken):
        path = tmp_path / "two.py"
        path.write_text(FAILING.replace("BROKEN", repr(broken)))
        return path

    return made


def begun(*arguments):
    """The command in a process group of its own, as a shell starts it."""
    return subprocess.Popen(
        [sys.executable, "-m", "unstick.cli.main", "study", "run", *map(str, arguments), "--quiet"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def arms(path):
    """What a store holds but for seconds; the text of a float is all of its bits."""
    rows = [json.loads(line) for line in path.read_text().splitlines()[1:] if line.endswith("}")]
    assert len(rows) == len({(row["arm"], row["seed"]) for row in rows})
    return sorted(
        json.dumps({**row, "seconds": 0, "values": timeless(row["values"])}) for row in rows
    )


def count(path):
    """Whole lines after the header."""
    return max(path.read_bytes().count(b"\n") - 1, 0) if path.exists() else 0


def timeless(values):
    return {name: value for name, value in values.items() if "seconds" not in name}


def one_line(result, said):
    assert result.exit_code == 1, result.output
    assert said in result.stderr
    assert result.stderr.count("\n") == 1
    assert "Traceback" not in result.output


@pytest.mark.slow
def test_ten_kills_and_two_halves_give_the_table_of_an_uninterrupted_run(call, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    path = killed / "ravine.jsonl"
    assert call("study", "run", *SHORT, "--store", whole, "--backend", "here").exit_code == 0
    draw, held = random.Random(0), [0]  # noqa: S311 - moments, not secrets

    for _ in range(10):
        process = begun(*SHORT, "--store", killed)
        while process.poll() is None and count(path) <= held[-1]:
            time.sleep(0.02)
        time.sleep(draw.uniform(0.0, 0.2))
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        held.append(count(path))
    last = begun(*SHORT, "--store", killed)
    last.communicate()

    expected = arms(whole / path.name)
    assert last.returncode == 0
    assert held == sorted(set(held))  # each got further, and none lost a line
    assert held[-1] < len(expected)
    assert arms(path) == expected

    lines = path.read_text().splitlines(keepends=True)
    for name, rows in (("a", lines[1::2]), ("b", lines[2::2])):
        (tmp_path / name).mkdir()
        (tmp_path / name / path.name).write_text("".join([lines[0], *rows]))
    merged = call("study", "merge", tmp_path / "a", tmp_path / "b", "--into", tmp_path / "both")
    assert merged.exit_code == 0
    assert arms(tmp_path / "both" / path.name) == expected

    before = path.read_bytes()
    other = call("study", "run", *SHORT, "--seed", 1, "--store", killed)
    one_line(other, "seed was 0, asked is 1")
    assert path.read_bytes() == before


@pytest.mark.slow
def test_ctrl_c_ends_it_soon_keeps_what_is_done_and_prints_it(tmp_path):
    study = tmp_path / "two.py"
    text = FAILING.replace("BROKEN", "()").replace("seeds=(2, 2)", "seeds=(60, 60)")
    study.write_text(text.replace("    if task", "    import time; time.sleep(0.5)\n    if task"))
    path = tmp_path / "store" / "two.jsonl"
    process = begun(study, "--jobs", 2, "--store", path.parent)
    while not path.exists() or len(path.read_text().splitlines()) < 4:
        assert process.poll() is None
        time.sleep(0.05)

    os.killpg(process.pid, signal.SIGINT)
    begin = time.monotonic()
    answer, refusal = process.communicate(timeout=60)

    assert time.monotonic() - begin < 15
    assert process.returncode == 1
    assert "interrupted: what was" in " ".join(answer.split())
    assert refusal == (
        "unstick: interrupted: the answer above is the best so far; the same command goes on from "
        f"{path.parent}\n"
    )
    assert 3 <= len(arms(path)) < 120


def test_arms_that_fail_are_marked_and_what_is_not_finite_stays(call, two, tmp_path):
    result = call("study", "run", two("two"), "--backend", "here", "--json", "--quiet")

    assert result.exit_code == 0
    rows = json.loads(result.stdout)["rows"]
    assert [row["failed"] for row in rows] == ["", "ValueError: broken"] * 2
    assert "inf" in json.dumps(rows[0]["values"]).lower()


def test_when_every_arm_fails_it_is_said_and_the_exit_code_is_1(call, two):
    result = call("study", "run", two("one", "two"), "--backend", "here", "--quiet")

    one_line(result, "unstick: every arm failed in two: nothing was measured there")
    assert "ValueError: broken" in result.stdout


@pytest.mark.slow
def test_a_rate_that_diverges_in_a_real_study_leaves_its_other_arms(call, tmp_path):
    (tmp_path / "own.py").write_text(
        "import torch\nfrom torch import nn\ndef net():\n"
        "    model = nn.Sequential(nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 10))\n"
        "    [torch.nn.init.constant_(p, 1e30) for p in model.parameters()]\n    return model\n"
    )
    model = f"{tmp_path / 'own.py'}:net"

    result = call("study", "run", "momentum", "--model", model, "--seeds", 1, "--json", "-q")

    assert result.exit_code in (0, 1)
    assert "Traceback" not in result.output
    assert json.loads(result.stdout)["verdict"] == "inconclusive"


def test_a_full_disk_is_one_line_and_the_same_command_goes_on(call, two, tmp_path, monkeypatch):
    command = ["study", "run", two(), "--store", tmp_path / "s", "--backend", "here", "--quiet"]
    real, written = os.fsync, []

    def full(handle):
        written.append(handle)
        if len(written) == 3:
            raise OSError(28, "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", full)
    one_line(call(*command), "takes no more (No space left on device); 1 finished arms are in it")
    monkeypatch.undo()

    assert call(*command).exit_code == 0
    assert len(arms(tmp_path / "s" / "two.jsonl")) == 4


@pytest.mark.parametrize("command", ["run", "merge", "report"])
def test_a_folder_that_cannot_be_made_is_one_line(call, two, tmp_path, command):
    (tmp_path / "file").write_text("")
    nowhere, store = tmp_path / "file" / "folder", tmp_path / "store"
    assert call("study", "run", two(), "--store", store, "--backend", "here").exit_code == 0

    asked = {
        "run": [two(), "--store", nowhere, "--backend", "here"],
        "merge": [store, "--into", nowhere],
        "report": [store, "--out", nowhere],
    }[command]
    one_line(call("study", command, *asked), "Not a directory")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "dimensoin"], "close to it: dimension"),
        (["run", "taylor", "--data", "irsi"], "no data set is called 'irsi'"),
        (["run", "taylor", "--data", "mnist", "--data-dir", "absent"], "absent is not a folder"),
        (["run", "taylor", "--model", "absent.py:net"], "absent.py does not exist"),
        (["run", "dimension", "--data", "iris"], "dimension has its own data"),
        (["merge", ".", "--into", "all"], "no store in ."),
        (["report", ".", "--out", "pages"], "no store in ."),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, list) else "",
)
def test_what_cannot_be_done_is_one_line(call, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)

    one_line(call("study", *arguments), said)
    assert not list(Path().iterdir())


@pytest.mark.parametrize(
    "arguments",
    [
        ["run"],
        ["run", "taylor", "--all"],
        ["run", "taylor", "--seeds", "0"],
        ["run", "taylor", "--jobs", "0"],
        ["run", "taylor", "--address", "127.0.0.1:6379"],
        ["run", "taylor", "--part", "1/2"],
        ["run", "taylor", "--part", "3/2", "--store", "s"],
        ["run", "taylor", "--part", "half", "--store", "s"],
        ["run", "taylor", "--out", __file__],
        ["run", "taylor", "--store", __file__],
        ["merge", "--into", "all"],
        ["report", "absent", "--out", "pages"],
    ],
    ids=lambda given: " ".join(given).replace(__file__, "FILE"),
)
def test_wrong_usage_is_2(call, arguments):
    result = call("study", *arguments)

    assert result.exit_code == 2
    assert "Traceback" not in result.output


def test_a_store_of_a_study_of_ones_own_is_reported_and_resumed(call, two, tmp_path):
    store = tmp_path / "store"
    assert call("study", "run", two(), "--store", store, "--backend", "here").exit_code == 0

    told = call("study", "report", store, "--out", tmp_path / "pages", "--json")

    assert told.exit_code == 0
    assert json.loads(told.stdout)["outcome"] == "complete"
    assert (tmp_path / "pages" / "two.html").exists()


def test_of_several_studies_none_is_begun_where_one_store_cannot_be_gone_on_from(
    call, two, tmp_path
):
    store, out = tmp_path / "store", tmp_path / "pages"
    ravine = ["study", "run", "ravine", "--store", store, "--seeds", 1, "--backend", "here", "-q"]
    assert call(*ravine).exit_code == 0
    before = (store / "ravine.jsonl").read_bytes()

    refused = call(
        "study", "run", two(), "ravine", "--store", store, "--seeds", 2, "--out", out, "-q"
    )

    one_line(refused, "ravine.jsonl is of other settings: seeds was 1, asked is 2")
    assert [path.name for path in store.glob("*.jsonl")] == ["ravine.jsonl"]
    assert (store / "ravine.jsonl").read_bytes() == before
    assert not out.exists()


def test_parts_of_two_machines_make_the_whole(call, two, tmp_path):
    for at in (1, 2):
        told = call(
            "study", "run", two(), "--store", tmp_path / str(at), "--part", f"{at}/2", "-q",
            "--backend", "here",
        )  # fmt: skip
        assert told.exit_code == 0
        assert f"part {at} of 2" in " ".join(told.stdout.split())
    into = tmp_path / "all"
    assert (
        "4 finished arms"
        in call("study", "merge", tmp_path / "1", tmp_path / "2", "--into", into).stdout
    )

    whole = call("study", "report", into, "--out", tmp_path / "pages", "--json")

    assert json.loads(whole.stdout)["outcome"] == "complete"
