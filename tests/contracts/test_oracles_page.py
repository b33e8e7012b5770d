"""The page of points with known answers says what algebra and ``classify`` say, of every oracle there is."""

from types import SimpleNamespace

import oracles_page
import pytest

from cases import ORACLES


@pytest.fixture(scope="module")
def page():
    return oracles_page.page()


def test_the_oracles_page_is_up_to_date(page):
    written = oracles_page.PAGE.read_text(encoding="utf-8")
    assert written == page, "run `python tests/contracts/oracles_page.py --write`"


def test_every_oracle_is_on_the_page(page):
    rows = [line.split("<br>")[0].removeprefix("| ") for line in page.splitlines()]

    assert [oracle.name for oracle in ORACLES] == [row for row in rows if row in map(str, ORACLES)]
    assert len([line for line in page.splitlines() if "| `" in line]) == len(ORACLES) + 6


def test_a_verdict_that_differs_stops_the_writing():
    wrong = SimpleNamespace(kind="saddle", inertia=(1, 0, 1))

    oracles_page._agree("it", wrong, "saddle", (1, 0, 1))
    with pytest.raises(AssertionError, match="it is minimum"):
        oracles_page._agree("it", wrong, "minimum", (1, 0, 1))
