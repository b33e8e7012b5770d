"""The page about models lists every model of the tests, and the ways of computing products that work for it."""

from dataclasses import replace

import architectures_page
import pytest

from problem.architectures import architecture, modes_of, names

TEXT = architectures_page.PAGE.read_text(encoding="utf-8")
ROWS = architectures_page.rows(TEXT)


def test_the_page_has_a_row_for_each_model_and_the_text_of_today():
    told = "run `python tests/contracts/architectures_page.py --write`"

    assert list(ROWS) == names(), told
    assert TEXT.startswith(architectures_page.HEAD), told
    assert TEXT.endswith(architectures_page.TAIL), told


@pytest.mark.parametrize("name", names())
def test_a_row_says_what_works_what_was_taken_and_why_nothing_else(name):
    works, taken, _error, _at_once, why = ROWS[name]
    modes = modes_of(name)

    assert works == architectures_page.works(modes)
    assert taken in works
    assert taken != "`difference`" or works == taken
    for mode in {"kept", "forward"} - set(modes):
        assert f"`{mode}`: " in why


def test_a_product_that_differs_from_its_reference_stops_the_writing(monkeypatch):
    right = architecture("perceptron")
    wrong = replace(right, products=lambda V: 1.1 * right.products(V))
    monkeypatch.setattr(architectures_page, "architecture", lambda name: wrong)

    with pytest.raises(AssertionError, match=r"perceptron: 0\.09"):
        architectures_page._row("perceptron")
