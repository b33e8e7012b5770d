"""Each command answers on stdout, says what it does on stderr, and leaves the right exit code."""

import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import unstick
from unstick.cli.demo import DATA
from unstick.studies.demo import WAYS

COMMANDS = ["demo", "diagnose", "escape", "spectrum", "train"]


def answer(result):
    assert result.exit_code == 0, result.output
    assert result.stdout.count("\n") == 1
    return json.loads(result.stdout)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_help_text(call, command):
    for flag in ("-h", "--help"):
        result = call(command, flag)
        assert result.exit_code == 0
        assert "--json" in result.stdout
        assert "--seed" in result.stdout


def test_the_version_is_the_packages(call):
    assert call("--version").stdout == f"unstick, version {unstick.__version__}\n"


def test_help_lists_the_commands(call):
    result = call("--help")

    assert all(command in result.stdout for command in COMMANDS)


def test_the_demo_offers_what_the_library_demonstrates():
    assert set(DATA) == set(WAYS)


@pytest.mark.parametrize(
    ("command", "kind"),
    [("diagnose", "Diagnosis"), ("escape", "Escape"), ("spectrum", "LayeredEnds")],
)
@pytest.mark.parametrize("function", ["saddle", "moving", "run"])
def test_json_is_one_object_and_nothing_else(call, stuck, command, kind, function):
    assert answer(call(command, f"{stuck}:{function}", "--json"))["type"] == kind


def test_what_a_model_prints_does_not_spoil_the_object(call, stuck):
    result = call("spectrum", f"{stuck}:talking", "--json")

    assert answer(result)["type"] == "LayeredEnds"
    assert "in the loss" in result.stderr


def test_equal_calls_give_equal_answers(call, stuck):
    def asked():
        return answer(call("spectrum", f"{stuck}:moving", "--json", "--seed", 3))

    assert asked() == asked()


def test_the_expected_work_is_said(call, stuck):
    result = call("spectrum", f"{stuck}:moving", "--budget", 150)

    assert result.exit_code == 0
    assert result.stderr.startswith("up to 150 gradients of 64 samples; one takes ")


def test_quiet_says_nothing_on_stderr(call, stuck):
    assert call("spectrum", f"{stuck}:moving", "--quiet").stderr == ""


def test_a_saddle_is_told_in_words(call, stuck):
    result = call("diagnose", f"{stuck}:saddle")

    assert result.exit_code == 0
    assert "saddle" in result.stdout.lower()
    assert "Proof" in result.stdout


@pytest.mark.parametrize(("function", "code"), [("saddle", 3), ("minimum", 0), ("moving", 0)])
def test_fail_on_stall_is_3_where_something_holds_the_training(call, stuck, function, code):
    assert call("diagnose", f"{stuck}:{function}", "--fail-on-stall").exit_code == code
    assert call("diagnose", f"{stuck}:{function}").exit_code == 0


def test_a_page_is_written_where_asked(call, stuck, tmp_path):
    page = tmp_path / "report.html"

    result = call("diagnose", f"{stuck}:saddle", "--html", page)

    assert result.exit_code == 0, result.output
    assert page.read_text(encoding="utf-8").lower().startswith("<!doctype html>")
    assert f"The report is in {page}." in result.stderr


def test_a_page_that_cannot_be_written_is_refused_after_the_answer(call, stuck, tmp_path):
    page = tmp_path / "folder.html"
    page.symlink_to(tmp_path / "no" / "such.html")

    result = call("spectrum", f"{stuck}:saddle", "--html", page, "--quiet")

    assert result.exit_code == 1
    assert result.stdout
    assert result.stderr.startswith(f"unstick: {page} cannot be written")


def test_spectrum_finds_both_curvatures_of_the_saddle(call, stuck):
    found = call("spectrum", f"{stuck}:saddle", "--lowest", 1, "--highest", 1, "--json")

    ends = unstick.report.serialization.from_json(found.stdout).ends
    assert ends.lowest.values.tolist() == pytest.approx([-2.0])
    assert ends.highest.values.tolist() == pytest.approx([2.0])


def test_escape_saves_a_lower_model(call, stuck, tmp_path):
    path = tmp_path / "moved.pt"

    found = answer(call("escape", f"{stuck}:saddle", "--save", path, "--json"))

    assert found["moved"] is True
    assert found["loss_after"] < found["loss_before"]
    x = torch.load(path, weights_only=True)["x"]
    assert float(x[0] ** 2 - x[1] ** 2 + x[1] ** 4) == pytest.approx(found["loss_after"], abs=1e-6)
    again = call("spectrum", f"{stuck}:saddle", "--checkpoint", path, "--json", "--quiet")
    assert answer(again)["type"] == "LayeredEnds"


def test_escape_writes_over_nothing(call, stuck, tmp_path):
    path = tmp_path / "moved.pt"
    path.write_text("precious")

    result = call("escape", f"{stuck}:saddle", "--save", path)

    assert result.exit_code == 1
    assert "is not written over" in result.stderr
    assert path.read_text() == "precious"


def test_escape_that_does_not_move_saves_nothing_and_says_so(call, stuck, tmp_path):
    path = tmp_path / "moved.pt"

    result = call("escape", f"{stuck}:minimum", "--save", path, "--quiet")

    assert result.exit_code == 1
    assert result.stdout
    assert result.stderr == f"unstick: {path} was not written: the model did not move\n"
    assert not path.exists()


def test_a_checkpoint_with_nan_is_refused_in_one_line(call, stuck, tmp_path):
    path = tmp_path / "nan.pt"
    torch.save({"x": torch.tensor([0.0, float("nan")])}, path)

    result = call("diagnose", f"{stuck}:saddle", "--checkpoint", path, "--quiet")

    assert result.exit_code == 1
    assert result.stderr.startswith("unstick: ")
    assert result.stderr.count("\n") == 1


def test_what_a_checkpoint_holds_in_vain_is_said(call, stuck, tmp_path):
    path = tmp_path / "more.pt"
    torch.save({"model": {"x": torch.zeros(2)}, "epoch": 3}, path)

    result = call("spectrum", f"{stuck}:saddle", "--checkpoint", path, "--quiet")

    assert result.stderr == f"{path} also holds epoch: not used\n"


def test_an_interrupted_answer_is_printed_and_exit_code_1(call, stuck, monkeypatch):
    whole = unstick.layered_ends

    def cut_short(*arguments, **options):
        return replace(whole(*arguments, **options), outcome="interrupted")

    monkeypatch.setattr(unstick, "layered_ends", cut_short)

    result = call("spectrum", f"{stuck}:saddle", "--json", "--quiet")

    assert result.exit_code == 1
    assert json.loads(result.stdout)["outcome"] == "interrupted"
    assert result.stderr == "unstick: interrupted: the answer above is the best so far\n"


SLOW = """
import time, torch, unstick

def problem():
    def slow(x):
        time.sleep(0.005)
        return (x**4).sum() - (x[::2] ** 2).sum()
    return unstick.Problem.from_function(slow, torch.linspace(-1, 1, 3000).double())
"""
TALKATIVE = """
from unstick.cli import progress
from unstick.cli.main import main

progress.LINE_EVERY = 0.0
main()
"""


def test_control_c_leaves_the_best_answer_so_far(tmp_path):
    (tmp_path / "slow.py").write_text(SLOW)
    options = ["--json", "--budget", "100000", "--lowest", "40", "--highest", "40"]
    command = [sys.executable, "-c", TALKATIVE, "spectrum", "slow.py:problem", *options]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr.readline().startswith("up to 100,000 gradients")
        while not process.stderr.readline().startswith("Hessian products: 20 of"):
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60)

    assert process.returncode == 1, stderr
    assert json.loads(stdout)["outcome"] == "interrupted"
    assert stderr.endswith("unstick: interrupted: the answer above is the best so far\n")
    assert "Traceback" not in stderr


def test_a_refusal_of_the_installed_command_is_one_line(tmp_path):
    command = [
        Path(sys.executable).with_name("unstick"),
        "diagnose",
        str(tmp_path / "no.py:problem"),
    ]

    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == f"unstick: {tmp_path / 'no.py'} does not exist\n"
