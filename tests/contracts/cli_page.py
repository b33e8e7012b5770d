"""Writes docs/reference/cli.md from the help texts: ``python tests/contracts/cli_page.py --write``.

Without ``--write`` it says whether the page is up to date.
"""

import sys
from pathlib import Path

import click

from unstick.cli.main import main

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "cli.md"
WIDTH = 100
HEAD = """# The command line

<!-- Generated from the help texts by `make fix`; a test holds it up to date. -->

"""


def page() -> str:
    """The page as it should be."""
    return HEAD + "\n".join(_sections(main, ["unstick"]))


def _sections(command: click.Command, names: list[str]) -> list[str]:
    """Of a command, then of its parts."""
    found = [_section(command, names)]
    if isinstance(command, click.Group):
        for name in sorted(command.commands):
            found += _sections(command.commands[name], [*names, name])
    return found


def _section(command: click.Command, names: list[str]) -> str:
    context = click.Context(command, info_name=" ".join(names), terminal_width=WIDTH)
    context.help_option_names = ["-h", "--help"]
    return f"## {' '.join(names)}\n\n```text\n{command.get_help(context)}\n```\n"


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        PAGE.parent.mkdir(parents=True, exist_ok=True)
        PAGE.write_text(page(), encoding="utf-8", newline="\n")
    elif PAGE.read_text(encoding="utf-8") != page():
        sys.exit(f"{PAGE} is out of date: make fix")
