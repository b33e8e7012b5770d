"""Every public name, and every type of result, has its place on a page under docs/reference."""

import re
from importlib import import_module

import pytest
from snippets import ROOT

import unstick
from unstick.report.serialization import TYPES

PAGES = sorted((ROOT / "docs" / "reference").glob("*.md"))
TEXT = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
RENDERED = set(re.findall(r"^::: (\S+)$", TEXT, re.MULTILINE))
NAMES = (ROOT / "docs" / "reference" / "unstick.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", unstick.__all__)
def test_every_public_name_is_listed_and_leads_to_its_page(name):
    place = unstick._PLACES.get(name)

    assert f"`{name}`" in NAMES
    if place is not None:
        assert f"[`{name}`][{place}.{name}]" in NAMES
        assert place in RENDERED


@pytest.mark.parametrize("name", TYPES)
def test_every_type_of_result_is_rendered(name):
    assert TYPES[name] in RENDERED


@pytest.mark.parametrize("module", sorted(RENDERED))
def test_what_is_rendered_says_what_is_public(module):
    assert import_module(module).__all__ or module.endswith("__init__")
