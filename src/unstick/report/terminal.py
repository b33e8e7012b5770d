"""Any record in a terminal: the verdict in color, then the proof, then the numbers."""

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from unstick.record import Record
from unstick.report.story import Story, Tone, story_of

__all__ = ["show"]

COLORS = {
    Tone.WAY_OUT: "green",
    Tone.SETTLED: "cyan",
    Tone.MOVING: "blue",
    Tone.OPEN: "yellow",
    Tone.FAULT: "red",
    Tone.PLAIN: "default",
}


def show(record: Record, console: Console) -> None:
    """Print a record: the same story as ``print(record)``, laid out for the width of the console."""
    story = story_of(record)
    console.print(_verdict(story))
    if story.summary:
        console.print(Padding(Text(story.summary), (1, 0, 0, 2)))
    if story.proof:
        proof = Text.assemble(("Proof  ", "bold"), (story.proof, "italic"))
        console.print(Padding(proof, (1, 0, 0, 2)))
    if story.facts:
        console.print(Padding(_numbers(story), (1, 0, 0, 2)))


def _verdict(story: Story) -> Text:
    color = COLORS[story.tone]
    badge = Text(f" {story.badge} ", f"bold reverse {color}") if story.badge else Text()
    space = " " if story.badge else ""
    return Text.assemble(badge, space, (story.headline, f"bold {color}"))


def _numbers(story: Story) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for label, value in story.facts:
        table.add_row(Text(label), Text(value))
    return table
