"""The fenced blocks of a Markdown page, and how a reader would run them: in order, in one folder.

A ``python`` block runs in one namespace a page; one whose first line is a comment with a file's name is that file.
A ``console`` block holds commands behind ``$``. Nothing else is prepared. Files come first, since a page may show
its commands before it shows the file; a command that names a checkpoint waits for the block that writes it.
"""

import re
import runpy
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from click.testing import CliRunner

from unstick.cli.main import main

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# ([\w-]+\.py)\n")
TARGETS = set(
    re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
)
TRUSTED = ("source .venv/bin/activate",)  # what only prepares a shell


@dataclass(frozen=True)
class Block:
    """One fenced block and the line of the page on which its text begins."""

    language: str
    text: str
    line: int


def documents():
    """Every page that a person wrote."""
    pages = sorted((ROOT / "docs").rglob("*.md"))
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *pages]


def blocks(page):
    """The fenced blocks of a page."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(found[1], found[2], text.count("\n", 0, found.start(2)) + 1)
        for found in FENCE.finditer(text)
    ]


def file_of(block):
    """The name of the file that a block is, and its text; None where it is none."""
    named = FILE.match(block.text) if block.language == "python" else None
    return None if named is None else (named[1], block.text[named.end() :])


def commands(block):
    """The lines of a console block, without their prompt."""
    lines = block.text.splitlines()
    assert all(line.startswith("$ ") for line in lines), f"line {block.line}: output is not shown"
    return [line.removeprefix("$ ") for line in lines]


def run_page(page, folder):
    """Run a page in an empty folder, which is the current one and first on Python's path."""
    namespace, waiting = {"__name__": page.stem}, []
    parts = blocks(page)
    for name, text in filter(None, map(file_of, parts)):
        assert not (folder / name).exists(), f"{page.name} writes {name} twice"
        (folder / name).write_text(text, encoding="utf-8")
        sys.modules.pop(Path(name).stem, None)  # another test's file of this name
    for block in parts:
        if block.language == "python" and file_of(block) is None:
            code = "\n" * (block.line - 1) + block.text  # a traceback then names the page's line
            exec(compile(code, page, "exec"), namespace)  # noqa: S102 - what is tested
        if block.language == "console":
            waiting += commands(block)
        waiting = [command for command in waiting if not _done(command)]
    assert not waiting, f"{page.name} never makes what these need: {waiting}"


def _done(command):
    """Run a command, or say that it has to wait for a file."""
    program, *arguments = shlex.split(command, comments=True)
    if (
        "--checkpoint" in arguments
        and not Path(arguments[arguments.index("--checkpoint") + 1]).exists()
    ):
        return False
    match program, arguments:
        case "make", [target]:
            assert target in TARGETS, command
        case "unstick", _:
            result = CliRunner().invoke(main, arguments, catch_exceptions=False)
            assert result.exit_code == 0, f"{command}\n{result.output}"
        case "python", ["-m", "pip", "install", "-c", constraints, "."]:
            assert (ROOT / constraints).is_file(), command
        # Under torchrun itself both run in tests/problem/test_processes.py; here in one process.
        case "torchrun", ["--nproc-per-node", _, "-m", "unstick.cli.main", *given]:
            result = CliRunner().invoke(main, given, catch_exceptions=False)
            assert result.exit_code == 0, f"{command}\n{result.output}"
        case "torchrun", ["--nproc-per-node", _, script]:
            runpy.run_path(script, run_name="__main__")
        case "python", [script] if not script.startswith("-"):
            runpy.run_path(script, run_name="__main__")
        case _:
            assert command in TRUSTED, f"no reader was told how to run: {command}"
    return True


def forget(folder):
    """Drop the modules that were imported from a folder, so that the next page imports its own."""
    for name, module in list(sys.modules.items()):
        if Path(getattr(module, "__file__", None) or "/").parent == folder:
            del sys.modules[name]
