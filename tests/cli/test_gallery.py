"""``unstick gallery``: what is listed, what is measured, and what is refused."""

import json

import pytest

from unstick.studies.gallery import STAGES, all_stalls

QUICK = ("gallery", "two-scalars", "-q")


def answer(result):
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_the_list_has_a_line_for_every_stall_with_its_cause_and_source(call):
    result = call("gallery", "--list")

    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert len(lines) == len(all_stalls())
    for line, stall in zip(lines, all_stalls(), strict=True):
        assert line.startswith(f"{stall.name}: {stall.causes[0]}. ")
        assert line.endswith(f"({stall.source})")


def test_json_is_one_object_with_every_training(call):
    told = answer(call(*QUICK, "--seeds", "2", "--seed", "5", "--json"))

    assert told["type"] == "GalleryResult"
    assert [(c["name"], c["seed"]) for c in told["stalls"]] == [
        ("two-scalars", 5),
        ("two-scalars", 6),
    ]
    stages = [(c["seed"], c["stage"]) for c in told["healthy"]]
    assert stages == [(seed, stage) for seed in (5, 6) for stage in STAGES]
    assert told["stalls"][0]["found"][0] == "strict-saddle"


def test_healthy_trainings_can_be_left_out(call):
    told = answer(call(*QUICK, "--no-healthy", "--json"))

    assert len(told["stalls"]) == 1
    assert told["healthy"] == []


def test_the_answer_says_how_often_it_was_right_and_how_often_it_cried_wolf(call):
    result = call(*QUICK)

    assert result.exit_code == 0
    assert "1 of 1 stalls" in result.stdout
    assert "0 false alarms on 3 healthy trainings" in result.stdout
    assert "right first" in result.stdout


def test_a_page_is_written(call, tmp_path):
    page = tmp_path / "gallery.html"
    result = call(*QUICK, "--no-healthy", "--html", page)

    assert result.exit_code == 0, result.output
    assert "1 of 1 stalls" in page.read_text(encoding="utf-8")


def test_a_name_of_nothing_is_one_line_that_says_what_there_is(call):
    result = call("gallery", "nothing-like-it")

    assert result.exit_code == 1
    assert result.stdout == ""
    assert "no training is called nothing-like-it; the stalls are zero-start" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("wrong", [("--seeds", "0"), ("--seeds", "two"), ("--seed", "x")])
def test_wrong_usage_is_told_apart(call, wrong):
    assert call("gallery", *wrong).exit_code == 2
