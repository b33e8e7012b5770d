import json
import re
from dataclasses import replace
from html import escape as quote
from itertools import pairwise

import plotly.graph_objects as go
import pytest
import torch

from report.examples import (
    HOSTILE,
    demonstration,
    diagnosis,
    escape,
    every_record,
    plane,
    point,
    portrait,
)
from unstick.record import Record
from unstick.report.page import LIBRARY, save, to_html
from unstick.report.serialization import from_json, load, to_json
from unstick.spectrum.interval import Interval

RECORDS = [record for record in every_record() if isinstance(record, Record)]
MEGABYTE = 1_000_000


def specifications(page: str) -> list[dict]:
    found = re.search(
        r'<script type="application/json" id="specifications">(.*?)</script>', page, re.DOTALL
    )
    return json.loads(found[1]) if found else []


def names(page: str) -> list[str]:
    return [specification["name"] for specification in specifications(page)]


def palette(page: str) -> dict[str, str]:
    return dict(re.findall(r"--([\w-]+): ([^;]+);", page))


def colored(value, colors):
    if isinstance(value, str) and value.startswith("@"):
        return colors[value[1:]]
    if isinstance(value, list):
        return [colored(item, colors) for item in value]
    return (
        {key: colored(item, colors) for key, item in value.items()}
        if isinstance(value, dict)
        else value
    )


def words(page: str) -> str:
    """The page without the plotting library."""
    return "".join(
        part
        for part in re.split(r"(<script>.*?</script>)", page, flags=re.DOTALL)
        if len(part) < MEGABYTE
    )


def test_a_shared_page_is_small_and_the_library_lies_beside_it_once(tmp_path):
    for name in ("a", "b"):
        save(demonstration(), tmp_path / f"{name}.html", shared=True)
    library = (tmp_path / LIBRARY).read_text(encoding="utf-8")

    assert (tmp_path / "a.html").stat().st_size < MEGABYTE
    assert library.strip() in to_html(demonstration())
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_every_record_has_a_page_that_tells_its_story(record):
    page = to_html(record)

    assert f"<h1>{quote(record.headline(), quote=False)}</h1>" in page.replace(
        "&#39;", "'"
    ).replace("&#34;", '"')
    assert len(page.encode()) < 6 * MEGABYTE
    assert len(set(names(page))) == len(names(page))


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_every_figure_is_valid_and_all_its_colors_are_in_the_palette(record):
    page = to_html(record)

    for specification in specifications(page):
        figure = colored(
            {"data": specification["traces"], "layout": specification["layout"]}, palette(page)
        )
        go.Figure(figure)  # refuses a property that does not exist


def test_a_demonstration_shows_every_section_in_order():
    assert names(to_html(demonstration())) == [
        "run",
        "arms",
        "units",
        "spectrum",
        "negative-end",
        "line-1",
        "line-2",
        "plane",
        "surface",
        "gradient",
        "share",
        "escape",
    ]


def test_a_section_without_data_is_left_out():
    bare = replace(diagnosis(), portrait=None, escape=None)

    assert names(to_html(bare)) == ["history", "arms", "units", "spectrum", "negative-end"]


def test_the_verdict_comes_before_the_proof_and_the_proof_before_the_figures():
    page, told = to_html(diagnosis()), diagnosis()

    parts = [
        'class="badge"',
        "<h1>",
        told.summary[:40],
        "Proof</figcaption>",
        "Key numbers",
        'id="spectrum"',
        "What it cost",
    ]
    places = [page.index(part) for part in parts]
    assert places == sorted(places)


def test_equal_records_give_equal_bytes(tmp_path):
    for name in ("one", "two"):
        save(from_json(to_json(demonstration())), tmp_path / f"{name}.html")

    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()


def test_nothing_in_the_page_refers_to_the_network():
    page = words(to_html(demonstration()))

    assert not re.findall(r"https?://|//cdn|@import|src=", page)
    assert "default-src 'none'" in page


def test_headings_descend_one_level_at_a_time():
    levels = [int(level) for level in re.findall(r"<h([1-6])", words(to_html(demonstration())))]

    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_whatever_a_user_named_is_text_and_nothing_else():
    told = diagnosis()
    layer = replace(told.portrait.layers[0], name=HOSTILE)
    line = replace(told.portrait.lines[0], name=HOSTILE)
    pictured = replace(told.portrait, layers=(layer,), lines=(line,), notes=(HOSTILE,))
    pictured = replace(pictured, plane=replace(plane(), x_name=HOSTILE, y_name=HOSTILE))
    hostile = replace(
        told, summary=HOSTILE, portrait=pictured, escape=replace(escape(), outcome=HOSTILE)
    )
    hostile = replace(hostile, point=replace(point(), proof=HOSTILE))

    page = to_html(hostile)

    assert "<img" not in words(page)
    assert page.count("</script>") == 3


def test_values_that_are_not_finite_are_listed_and_never_written():
    page = to_html(portrait())

    assert "1 measured point where the loss is inf or nan, at 5" in page
    assert "2 grid points where the loss is inf or nan" in page
    assert not re.search(r"\b(NaN|Infinity)\b", str(specifications(page)))


def test_a_cut_scale_is_said_in_the_caption():
    line, _ = portrait().lines
    cut = replace(
        portrait(),
        lines=(replace(line, losses=line.losses + torch.where(line.steps.abs() > 4, 900.0, 0.0)),),
    )

    assert re.search(r"cuts off \d+ measured points above \(up to 90\d", to_html(cut))


def test_losses_too_large_for_a_browser_stay_where_it_can_place_them():
    line, _ = portrait().lines
    steep = replace(line, losses=torch.where(line.steps > 2, 1e291, line.losses))
    cliff = replace(plane(), losses=torch.where(plane().x > 2, 1e291, plane().losses))

    drawn = specifications(to_html(replace(portrait(), lines=(steep,), plane=cliff)))

    assert not re.search(r"e\+\d\d", json.dumps(drawn))
    assert "up to 1e291" in to_html(steep)


def test_nothing_finite_leaves_the_figure_out():
    line, _ = portrait().lines
    empty = replace(plane(), losses=torch.full_like(plane().losses, torch.nan))
    nowhere = replace(
        portrait(), plane=empty, lines=(replace(line, losses=line.losses * torch.nan),), layers=()
    )

    assert names(to_html(nowhere)) == ["spectrum"]


def test_an_unknown_bound_is_drawn_without_an_arm():
    open_ended = replace(point(), lambda_min=Interval(-0.2, -torch.inf, -0.2, 0.0, 1.0))

    assert names(to_html(open_ended)) == ["spectrum", "negative-end"]


def test_what_pictures_are_of_and_what_is_missing_is_said():
    page = to_html(replace(portrait(), outcome="interrupted"))

    assert "Pictures of 1,024 of 1,437 samples." in page
    assert "the pictures: not complete (interrupted)" in page


def test_saving_as_json_and_loading_gives_the_record(tmp_path):
    save(diagnosis(), tmp_path / "stuck.json")

    assert to_json(load(tmp_path / "stuck.json")) == to_json(diagnosis())


@pytest.mark.parametrize("name", ["report", "report.pdf", "report.html.gz"])
def test_another_suffix_is_refused_in_one_line(tmp_path, name):
    with pytest.raises(ValueError, match=r"a report is \.html, \.json, \.png or \.csv") as refusal:
        save(point(), tmp_path / name)
    assert "\n" not in str(refusal.value)
    assert not list(tmp_path.iterdir())
