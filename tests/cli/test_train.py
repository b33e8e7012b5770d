"""``unstick train``: what the options mean, what is written, and what is refused."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

import unstick
from unstick.trace import RunTrace
from unstick.training.checkpoint import read_state

QUICK = ("--data", "iris", "--model", "8", "--epochs", "3", "-q")

OWN = """
import torch
from torch import nn

def data():
    x = torch.linspace(-1, 1, 40).reshape(-1, 1)
    return x, 3 * x, x, 3 * x

def model():
    return nn.Linear(1, 1)

def number():
    return 3
"""


def answer(result):
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_json_is_one_object_with_the_recipe_that_was_asked_for(call):
    told = answer(
        call("train", *QUICK, "--optimizer", "adam", "--lr", "0.01", "--batch-size", "30", "--json")
    )

    assert told["type"] == "Trained"
    assert told["recipe"]["optimizer"] == "adam"
    assert told["recipe"]["batch_size"] == 30
    assert len(told["trace"]["loss"]) == 3 * 4
    assert [score["split"] for score in told["scores"]] == ["training", "test"]


def test_every_combination_is_a_member(call):
    told = answer(call("train", *QUICK, "--vary", "lr=0.01,0.1", "--vary", "seed=0,1,2", "--json"))

    knobs = [(m["recipe"]["lr"], m["recipe"]["seed"]) for m in told["members"]]
    assert knobs == [(lr, seed) for lr in (0.01, 0.1) for seed in (0, 1, 2)]
    assert told["together"] == 6
    assert len({m["trace"]["loss"][0] for m in told["members"]}) == 3  # a seed is an initialization


def test_what_is_written_can_be_read(call, tmp_path):
    folder, trace = tmp_path / "run", tmp_path / "trace.csv"
    told = answer(
        call(
            *("train", *QUICK, "--validate", "0.2", "--norms", "--out", str(folder)),
            *("--trace", str(trace), "--json"),
        )
    )

    assert sorted(path.name for path in folder.iterdir()) == [
        "checkpoint.safetensors",
        "curves.html",
        "model.safetensors",
        "trace.jsonl",
    ]
    assert {score["split"] for score in told["scores"]} == {"training", "validation", "test"}
    assert RunTrace.read(folder / "trace.jsonl").loss == told["trace"]["loss"]
    assert RunTrace.read(trace).gradient_norm == told["trace"]["gradient_norm"]
    assert set(load_file(folder / "model.safetensors")) == {
        "0.weight",
        "0.bias",
        "2.weight",
        "2.bias",
    }


def test_several_models_are_written_side_by_side(call, tmp_path):
    call("train", *QUICK, "--vary", "seed=0,1", "--out", str(tmp_path))

    names = {path.name for path in tmp_path.iterdir()}
    assert names == {
        "model-0.safetensors",
        "model-1.safetensors",
        "trace-0.jsonl",
        "trace-1.jsonl",
        "curves.html",
    }


def test_your_own_data_and_model(call, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(OWN)
    asked = ("train", "--data", f"{file}:data", "--raw", "--model", f"{file}:model", "--lr", "0.3")
    told = answer(call(*asked, "--epochs", "60", "--batch-size", "8", "--json", "-q"))

    assert told["trace"]["loss"][-1] < 1e-4
    refused = call("train", "--data", f"{file}:data", "--model", f"{file}:number", "-q")
    assert refused.exit_code == 1
    assert "returned int; expected a torch.nn.Module" in refused.stderr


def test_pretrained_parameters_are_taken_as_far_as_they_fit(call, tmp_path):
    call("train", *QUICK, "--out", str(tmp_path / "first"))
    saved = tmp_path / "first" / "model.safetensors"

    def first_loss(*more):
        asked = (
            "train",
            "--data",
            "iris",
            "--model",
            "8",
            "--updates",
            "1",
            "--batch-size",
            "full",
        )
        return answer(call(*asked, "-q", "--json", *more))["trace"]["loss"][0]

    assert first_loss("--pretrained", str(saved)) < first_loss()


def test_a_stall_is_handed_to_diagnosis(call):
    told = answer(
        call(
            *(
                "train",
                "--data",
                "digits",
                "--model",
                "16",
                "--activation",
                "tanh",
                "--init",
                "zero",
            ),
            *("--optimizer", "gradient-descent", "--epochs", "900", "--diagnose-on-stall"),
            *("--patience", "50", "-q", "--json"),
        )
    )

    assert told["type"] == "StalledRun"
    assert told["trained"]["outcome"] == "no progress"
    assert told["diagnosis"]["cause"] == "strict-saddle"


def test_a_healthy_training_is_not_handed_over(call):
    told = answer(call("train", *QUICK, "--optimizer", "adam", "--diagnose-on-stall", "--json"))

    assert told["type"] == "Trained"


def test_ctrl_c_and_resume_give_the_numbers_of_one_run(call, tmp_path):
    asked = ("--data", "digits", "--model", "32", "--updates", "4000", "--optimizer", "adam")
    folder = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-m", "unstick.cli.main", "train", *asked, "--out", str(folder), "-q"],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},  # as here: sums depend on it
    )
    deadline = time.monotonic() + 60
    while not (folder / "checkpoint.safetensors").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    done = len(read_state(folder / "checkpoint.safetensors")["trace"]["loss"])
    again = call("train", *asked, "--out", str(folder), "-q")
    resumed = answer(call("train", *asked, "--out", str(folder), "--resume", "--json", "-q"))
    whole = answer(call("train", *asked, "--json", "-q"))

    assert 0 < done < 4000
    assert process.returncode == 1
    assert "interrupted" in said
    assert again.exit_code == 1
    assert "give --resume" in again.stderr
    assert resumed["trace"]["loss"] == whole["trace"]["loss"]


def test_a_runs_checkpoint_is_one_for_diagnosis_too(call, tmp_path):
    call("train", "--data", "digits", "--model", "8", "--epochs", "1", "--out", str(tmp_path), "-q")
    (tmp_path / "mine.py").write_text(
        "import unstick\nfrom torch import nn\n\n\ndef problem():\n"
        "    digits = unstick.data.load('digits').standardized()\n"
        "    model = nn.Sequential(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))\n"
        "    data = (digits.train_inputs, digits.train_targets)\n"
        "    return unstick.Problem(model, data, nn.CrossEntropyLoss())\n"
    )
    target, saved = f"{tmp_path / 'mine.py'}:problem", tmp_path / "checkpoint.safetensors"

    result = call("diagnose", target, "--checkpoint", str(saved), "--json", "-q")

    point = answer(result)["point"]
    model = torch.nn.Sequential(torch.nn.Linear(64, 8), torch.nn.ReLU(), torch.nn.Linear(8, 10))
    model.load_state_dict(load_file(tmp_path / "model.safetensors"))
    digits = unstick.data.load("digits").standardized()
    with torch.no_grad():
        expected = torch.nn.functional.cross_entropy(
            model(digits.train_inputs), digits.train_targets
        )
    assert point["loss"] == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["--optimizer", "adan"], "optimizer is 'adan'; expected one of"),
        (["--batch-size", "huge"], "--batch-size is 'huge'; expected a number, or full"),
        (["--batch-size", "500"], "batch_size is 500 and there are"),
        (["--vary", "lr"], "--vary is 'lr'; expected KNOB=VALUE,VALUE"),
        (["--vary", "lr=low"], "lr is 'low'; expected a number"),
        (["--vary", "batch-size=1.5"], "batch_size is 1.5; expected a whole number"),
        (["--vary", "rate=1"], "recipes have no rate"),
        (["--beta1", "0.5"], "sgd has no beta1"),
        (["--resume"], "--resume needs --out"),
        (["--data", "mars"], "mars"),
        (["--model", "wide"], "the model is 'wide'; expected widths such as 64-64"),
        (["--model", "conv"], "conv expects images"),
        (["--activation", "step"], "activation is 'step'"),
        (["--init", "lucky"], "lucky"),
        (["--pretrained", "nowhere.pt"], "nowhere.pt does not exist"),
        (["--schedule", "sine"], "schedule is 'sine'"),
    ],
)
def test_what_cannot_be_done_is_one_line(call, asked, said):
    result = call("train", *QUICK, *asked)

    assert result.exit_code == 1
    assert said in result.stderr
    assert result.stderr.count("\n") == 1
