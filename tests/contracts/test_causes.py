"""Every cause has its page with a real run on it, and what that run says is still so."""

import re
import runpy
from types import SimpleNamespace

import pytest
from snippets import ROOT

from unstick.diagnosis.cause import Cause
from unstick.studies.gallery import all_stalls

pytestmark = pytest.mark.slow

FOLDER = ROOT / "docs" / "causes"
SCRIPT = FOLDER / "make.py"
QUICK = (
    "local-minimum",
    "zero-gradient-path",
)  # and with one remedy that helps more than any other
PARTS = (
    "What it looks like",
    "Why it happens",
    "What moves it",
    "How to keep it away",
    "What it is not",
    "A real run",
)
NAMED = re.compile(r"`([a-z]+(?:-[a-z]+)+)`\]\(([a-z-]+)\.md\)")


@pytest.fixture(scope="module")
def script():
    pytest.importorskip("playwright")
    return runpy.run_path(str(SCRIPT))


def text_of(name):
    return (FOLDER / f"{name}.md").read_text(encoding="utf-8")


def run_of(name):
    """The generated part of a page."""
    return text_of(name).split("<!-- written by make.py -->")[1].split("<!-- until here -->")[0]


def pages():
    return sorted(page.stem for page in FOLDER.glob("*.md") if page.stem != "index")


@pytest.mark.parametrize("cause", Cause)
def test_every_cause_has_a_page_that_the_site_and_the_index_lead_to(cause, script):
    page = script["PAGES"][cause]

    assert f"`{cause}`" in text_of(page).splitlines()[0]
    assert f"]({page}.md)" in text_of("index")
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert f": causes/{page}.md\n" in nav


def test_no_page_is_of_a_cause_that_there_is_not(script):
    assert pages() == sorted(set(script["PAGES"].values()))


@pytest.mark.parametrize("page", pages())
def test_every_page_shows_a_run_with_its_picture(page):
    run = run_of(page)

    assert f"]({page}.png)" in run
    assert (FOLDER / f"{page}.png").read_bytes()[1:4] == b"PNG"
    assert (FOLDER / f"{page}.png").stat().st_size <= 60_000
    assert "| cause | `" in run


@pytest.mark.parametrize("page", [page for page in pages() if page != "nothing-wrong"])
def test_every_page_of_a_fault_has_the_same_parts(page):
    parts = re.findall(r"^## (.*)$", text_of(page), re.MULTILINE)

    assert tuple(parts[: len(PARTS)]) == PARTS
    assert "**What does not help.**" in text_of(page)


@pytest.mark.parametrize("page", ["index", *pages()])
def test_a_link_named_after_a_cause_leads_to_its_page(page, script):
    for name, target in NAMED.findall(text_of(page)):
        assert script["PAGES"][Cause(name)] == target


def test_every_stall_that_is_shown_is_labelled_with_the_cause_of_its_page(script):
    stalls = {stall.name: stall for stall in all_stalls()}

    for cause, shown in script["SHOWN"].items():
        assert cause in stalls[shown.stall].causes
        assert f"`unstick gallery {shown.stall} --no-healthy`" in run_of(script["PAGES"][cause])
        assert not shown.refused or stalls[shown.refused].refused


@pytest.mark.parametrize("name", QUICK)
def test_a_run_still_has_the_cause_and_the_remedy_that_its_page_says(name, script):
    told = script["diagnosed"](Cause(name))

    assert told.cause == Cause(name)
    assert f"| cause | `{told.cause}` |" in run_of(name)
    assert told.remedy is not None
    rows = re.findall(r"^\| ([^|]+) \| yes \|", run_of(name), re.MULTILINE)
    assert rows[0] == told.remedy.remedy, "run `python docs/causes/make.py` for this cause"


@pytest.mark.parametrize(
    ("cause", "named", "fits"),
    [
        (Cause.STRICT_SADDLE, [Cause.STRICT_SADDLE, Cause.SYMMETRIC_UNITS], True),
        (Cause.STRICT_SADDLE, [Cause.SYMMETRIC_UNITS, Cause.STRICT_SADDLE], False),
        (Cause.NON_FINITE, [Cause.LEARNING_RATE_TOO_LARGE, Cause.NON_FINITE], True),
        (Cause.NON_FINITE, [Cause.LEARNING_RATE_TOO_LARGE], False),
    ],
)
def test_a_diagnosis_that_names_another_cause_is_not_shown(cause, named, fits, script):
    told = SimpleNamespace(cause=named[0], causes=[SimpleNamespace(cause=each) for each in named])

    assert (script["disagreement"](cause, told) == "") == fits
