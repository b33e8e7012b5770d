"""What README.md and the pages under docs/ tell a reader to type works, in that order, in an empty folder."""

import os
import re
import subprocess
import sys

import pytest
from snippets import ROOT, Block, blocks, commands, documents, file_of, forget, run_page

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
WITH_BLOCKS = [
    page for page in documents() if any(b.language in ("python", "console") for b in blocks(page))
]
LINK = re.compile(r"\]\(([^)#:\s]+)(?:#[^)\s]*)?\)")


def named(path):
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("page", WITH_BLOCKS, ids=named)
def test_every_command_and_snippet_of_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    try:
        run_page(page, tmp_path)
    finally:
        forget(tmp_path)


@pytest.mark.parametrize("page", documents(), ids=named)
def test_every_block_says_what_it_is_and_what_is_shown_is_run(page):
    assert {block.language for block in blocks(page)} <= {"python", "console", "text"}


@pytest.mark.parametrize("page", documents(), ids=named)
def test_every_link_to_a_file_leads_to_one(page):
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        assert (page.parent / link).exists(), link


@pytest.mark.parametrize("example", EXAMPLES, ids=named)
def test_a_page_shows_an_example_as_it_is(example):
    shown = [file_of(block) for page in documents()[2:] for block in blocks(page)]

    assert (example.name, example.read_text(encoding="utf-8")) in shown


@pytest.mark.parametrize("example", EXAMPLES, ids=named)
def test_an_example_runs_by_itself_and_complains_of_nothing(example, tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # as conftest.py has it
    done = subprocess.run(
        [sys.executable, example],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


def test_a_page_that_breaks_its_word_is_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = tmp_path / "page.md"
    for text, message in [
        ("```console\n$ make coffee\n```\n", "make coffee"),
        ("```console\n$ curl example.org\n```\n", "no reader was told"),
        ("```console\n$ unstick spectrum no.py:f --checkpoint no.pt\n```\n", "never makes"),
        ("```console\n$ unstick spectrum no.py:f\n```\n", "does not exist"),
        ("```python\nassert 1 == 2, 'sums'\n```\n", "sums"),
    ]:
        page.write_text(text)
        with pytest.raises(AssertionError, match=message):
            run_page(page, tmp_path)


def test_output_is_not_pasted():
    with pytest.raises(AssertionError, match="output is not shown"):
        commands(Block("console", "$ unstick demo\nsaddle\n", 1))


def test_the_numbers_of_the_readme_are_those_that_a_test_holds():
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    held = (ROOT / "tests" / "studies" / "test_demo.py").read_text(encoding="utf-8")

    assert "(60,000 images, 101,770 parameters) to at most 60 gradients" in readme
    assert "(shown.parameters, shown.samples) == (101_770, 60_000)" in held
    assert "cost.gradients <= 60 " in held
