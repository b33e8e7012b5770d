"""The commands that find, draw and measure: each answers on stdout, writes what it is asked for, and refuses early."""

import json
from pathlib import Path

import pytest
import torch

from unstick.critical.found import Found, Search
from unstick.landscape.convexity import Convexity
from unstick.landscape.interpolation import Interpolation
from unstick.landscape.plane import Plane
from unstick.landscape.survey import Survey
from unstick.report.serialization import from_json
from unstick.studies.frame.overview import Overview
from unstick.studies.frame.result import StudyResult
from unstick.studies.toys.toy import Toy

FILE = """
import torch
from torch import nn
import unstick

def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))

def data():
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(24, 2, generator=draw)
    return x, (x[:, 0] * x[:, 1] > 0).long()

def problem():
    return unstick.Problem(model(), data(), nn.CrossEntropyLoss())

def run():
    whole = problem()
    return unstick.Run(whole, torch.optim.SGD(whole.model.parameters(), 0.5), batch_size=8)

def linear():
    return unstick.Problem(nn.Linear(2, 2), data(), nn.CrossEntropyLoss())

def quartic():
    return unstick.Problem.from_function(
        lambda x: x[0]**4 / 4 - 3 * x[0]**2 + 9 * x[0] + 0.9 * x[1]**4 + 5 * x[1]**2 + 40, torch.tensor([-2.5, 0.3]))
"""


@pytest.fixture
def looking(tmp_path):
    path = tmp_path / "looking.py"
    path.write_text(FILE)
    return path


def read(result):
    assert result.exit_code == 0, result.output
    return from_json(result.stdout)


def test_find_ends_at_the_only_critical_point_of_the_quartic(call, looking, tmp_path):
    told = read(call("find", f"{looking}:quartic", "--json", "--save", str(tmp_path / "at.pt")))

    assert isinstance(told, Found)
    assert told.outcome == "critical"
    torch.testing.assert_close(
        torch.load(tmp_path / "at.pt")["x"].double(),
        torch.tensor([-3.0, 0.0]).double(),
        rtol=0,
        atol=1e-6,
    )


def test_find_from_many_starts_keeps_them_and_goes_on(call, looking, tmp_path):
    command = ("find", f"{looking}:quartic", "--starts", "3", "--noise", "0.1", "--json")
    store = ("--store", str(tmp_path / "kept.jsonl"))
    first, second = read(call(*command, *store)), read(call(*command, *store))

    assert isinstance(first, Search)
    assert first.resumed == 0
    assert second.resumed == 3
    torch.testing.assert_close(first.losses, second.losses, rtol=0, atol=0)


def test_find_saves_one_search_only(call, looking, tmp_path):
    result = call("find", f"{looking}:quartic", "--starts", "2", "--save", str(tmp_path / "at.pt"))

    assert result.exit_code == 1
    assert "--save is for one search" in result.stderr


@pytest.mark.parametrize("along", ["random", "eigenvectors", "gradient"])
def test_landscape_draws_a_plane_of_the_size_asked_for(call, looking, tmp_path, along):
    page = tmp_path / "plane.html"
    told = read(
        call("landscape", f"{looking}:problem", "--along", along, "--points", "5", "--accuracy", "--json", "--html", str(page))
    )  # fmt: skip

    assert isinstance(told, Survey)
    assert told.plane.losses.shape == told.plane.accuracies.shape == (5, 5)
    assert "Accuracy over the same plane" in page.read_text(encoding="utf-8")


def test_landscape_writes_the_same_function_otherwise(call, looking):
    told = read(
        call(
            "landscape", f"{looking}:problem", "--points", "3", "--sharpness", "--rescale", "--json"
        )
    )

    assert told.sharpness.lambda_max.value > 0
    losses = [plane.losses for plane in told.rescaled_normalized]
    for other in losses[1:]:
        torch.testing.assert_close(other, losses[0], rtol=1e-6, atol=1e-9)


def test_landscape_of_a_training_ends_where_it_ended(call, looking):
    told = read(
        call(
            "landscape",
            f"{looking}:run",
            "--along",
            "training",
            "--train",
            "20",
            "--points",
            "5",
            "--json",
        )
    )

    assert isinstance(told, Plane)
    assert told.path is not None
    assert told.path[-1].abs().max() < 1e-6


def test_landscape_between_two_checkpoints(call, looking, tmp_path):
    space = {}
    exec(compile(FILE, "looking", "exec"), space)  # noqa: S102 - the file above
    paths = []
    for k in range(2):
        model = space["model"]()
        with torch.no_grad():
            for p in model.parameters():
                p.add_(k * 0.5)
        paths.append(str(tmp_path / f"{k}.pt"))
        torch.save(model.state_dict(), paths[-1])

    told = read(
        call("landscape", f"{looking}:problem", "--between", *paths, "--points", "5", "--json")
    )

    assert isinstance(told, Interpolation)
    assert told.fractions.tolist() == [0, 0.25, 0.5, 0.75, 1]


def test_sharpness_of_a_line_between_checkpoints_is_refused(call, looking):
    result = call("landscape", f"{looking}:problem", "--along", "training", "--sharpness")

    assert result.exit_code == 1
    assert "for planes around the parameters" in result.stderr


@pytest.mark.parametrize(
    ("function", "outcome"), [("linear", "none found"), ("problem", "nonconvex")]
)
def test_convexity_tells_a_linear_model_from_a_hidden_layer(call, looking, function, outcome):
    told = read(call("convexity", f"{looking}:{function}", "--json"))

    assert isinstance(told, Convexity)
    assert told.outcome == outcome


def test_toy_without_a_name_lists_them_and_with_one_measures_it(call):
    assert "ravine:" in call("toy").stdout

    told = read(call("toy", "two-weights", "--json"))

    assert isinstance(told, Toy)


def test_an_unknown_toy_is_refused_in_one_line(call):
    result = call("toy", "two-wights")

    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1


def test_a_picture_elsewhere_than_png_is_refused_before_the_work(call, looking):
    result = call("landscape", f"{looking}:problem", "--png", "plane.jpg")

    assert result.exit_code == 2
    assert "does not end in .png" in result.output


def test_study_list_names_each_with_its_claim(call):
    lines = call("study", "list").stdout.splitlines()

    at = lines.index("dimension")  # which takes nothing of the user's
    assert lines[at + 1].startswith("  In d dimensions")
    assert "taylor  --data --model" in lines
    assert max(map(len, lines)) <= 100


def test_study_run_writes_page_json_and_csv_and_goes_on_from_its_store(call, tmp_path):
    out, store = tmp_path / "out", tmp_path / "store"
    command = ("study", "run", "dimension", "--seeds", "1", "--backend", "here", "--json")
    told = read(call(*command, "--out", str(out), "--store", str(store)))

    assert isinstance(told, StudyResult)
    assert sorted(path.name for path in out.iterdir()) == [
        "dimension.csv",
        "dimension.html",
        "dimension.json",
        "plotly.min.js",
    ]
    assert (out / "dimension.csv").read_text().startswith("arm,seed,d,draws,minima,seconds,failed")
    again = read(call("study", "report", str(store), "--out", str(tmp_path / "again"), "--json"))
    assert again.verdict == told.verdict


def test_study_merge_joins_folders(call, tmp_path):
    base = ("study", "run", "dimension", "--seeds", "1", "--backend", "here", "-q")
    for name in ("a", "b"):
        assert call(*base, "--store", str(tmp_path / name)).exit_code == 0

    result = call("study", "merge", str(tmp_path / "a"), str(tmp_path / "b"), "--into", str(tmp_path / "c"))  # fmt: skip

    assert "5 finished arms are new" in result.stdout
    assert "5 were there already" in result.stdout


def test_several_studies_give_an_overview(call, tmp_path):
    told = read(
        call("study", "run", "dimension", "dimension", "--seeds", "1", "--backend", "here", "--json", "--out", str(tmp_path))
    )  # fmt: skip

    assert isinstance(told, Overview)
    assert Path(tmp_path / "index.html").exists()


@pytest.mark.parametrize("arguments", [("run",), ("run", "dimension", "--all")])
def test_study_run_needs_names_or_all(call, arguments):
    assert call("study", *arguments).exit_code == 2


def test_an_unknown_study_is_one_line(call):
    result = call("study", "run", "dimensoin")

    assert result.exit_code == 1
    assert (
        result.stderr
        == "unstick: no study is called 'dimensoin'; close to it: dimension; a study of your own: file.py\n"
    )
    assert json.dumps(result.stdout) == '""'
