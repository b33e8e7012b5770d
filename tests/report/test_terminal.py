from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from report.examples import diagnosis, every_record, point
from unstick.record import Record
from unstick.report.story import story_of
from unstick.report.terminal import show

RECORDS = [record for record in every_record() if isinstance(record, Record)]


def text_of(record, *, width=400, color=False) -> str:
    console = Console(
        file=StringIO(),
        width=width,
        force_terminal=color,
        color_system="standard" if color else None,
    )
    show(record, console)
    return console.file.getvalue()


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_the_terminal_tells_everything_that_print_tells(record):
    text = text_of(record)

    assert text.index(record.headline()) < 60
    assert all(line in text for _, value in record.facts() for line in value.splitlines())


@pytest.mark.parametrize("record", [point(), diagnosis()], ids=lambda record: type(record).__name__)
def test_the_verdict_comes_before_the_proof_and_the_proof_before_the_numbers(record):
    text = text_of(record)
    story = story_of(record)

    order = [story.badge, story.headline, story.summary, story.proof, "gradient norm"]
    order = [part for part in order if part]
    places = [text.index(part) for part in order]
    assert places == sorted(places)


def test_the_verdict_is_colored_by_its_kind():
    assert "\x1b[1;7;32m strict-saddle" in text_of(diagnosis(), color=True)
    assert "\x1b" not in text_of(diagnosis())


def test_brackets_of_a_user_are_not_taken_for_markup():
    record = replace(point(), proof="[bold]not markup[/bold] [/nor this]")

    assert "[bold]not markup[/bold] [/nor this]" in text_of(record)


@pytest.mark.parametrize("width", [20, 80, 200])
def test_no_line_is_wider_than_the_console(width):
    assert all(len(line) <= width for line in text_of(diagnosis(), width=width).splitlines())
