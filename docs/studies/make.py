"""Writes the pages of the studies from a store: ``python docs/studies/make.py STORE DATA [REPEAT ...]``.

Answers: what did every study find when it was run at length?
Does not answer: what another machine finds; ``unstick study run --all --full --store STORE`` does.

Of each study that the store holds: a page of text, its first two pictures and the claim as PNG, and the interactive page. All
interactive pages share ``plotly.min.js``, which building the site puts beside them. Stores of the same studies with other seeds only
add their verdicts. Needs the ``png`` extra and a Chromium.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import unstick
from unstick.record import number
from unstick.report.figures import Table
from unstick.report.picture import save_pictures
from unstick.report.study_figures import batches_table, effects_table, overview_table
from unstick.studies.frame import Overview, StudyResult, all_studies, overview_of, results_of

HERE = Path(__file__).parent
SCALE = 1.25  # pixels of a picture for each of its layout
WRITTEN = "<!-- written by docs/studies/make.py from a run with --full -->"
MOST_EFFECTS = 24


def main(arguments: Sequence[str]) -> None:
    """Write every page."""
    if len(arguments) < 2:
        sys.exit(
            "give two folders, the --store and the --data-dir of `unstick study run --all --full`, and stores of other seeds"
        )
    store, data, *repeats = map(Path, arguments)
    found = results_of(store, data_dir=data)
    again = [{one.name: one for one in results_of(each, data_dir=data)} for each in repeats]
    told = overview_of(found, [study.name for study in all_studies()])
    for result in found:
        pictures = _pictures(result)
        unstick.save(result, HERE / f"{result.name}.html", shared=True)
        others = [results[result.name] for results in again if result.name in results]
        _write(HERE / f"{result.name}.md", _page(result, pictures, others))
        print(result.name, result.verdict)
    unstick.save(told, HERE / "overview.html", shared=True)
    _write(HERE / "index.md", _index(told, again))


def _pictures(result: StudyResult) -> list[str]:
    """The first two pictures, and the sketch of the claim beside the first where there is one."""
    for old in (HERE / f"{result.name}.png", *HERE.glob(f"{result.name}-*.png")):
        old.unlink(missing_ok=True)
    if not result.pictures:
        return []
    first = result.pictures[0].key
    wanted = (first, f"{first}-claim", *(picture.key for picture in result.pictures[1:2]))
    files = save_pictures(result, HERE / f"{result.name}.png", scale=SCALE, only=wanted)
    return [file.name for file in files]


def _page(result: StudyResult, pictures: Sequence[str], others: Sequence[StudyResult]) -> str:
    effects = effects_table(result)
    repeated = ", ".join(f"{one.verdict} (from seed {_seed(one)})" for one in others)
    lines = [
        f"# {result.name}",
        WRITTEN,
        f"**{result.claim}.** ({result.source})",
        f"**Measured: {result.verdict}.** {result.said}",
        *([f"**With other seeds:** {repeated}."] if others else []),
        *_drawn(result, pictures),
        f"**Question.** {result.question}",
        f"**Measured.** {result.measured}.",
        f"**Rule, fixed before.** {result.rule}.",
        f"**Against it.** {result.criticism}",
        *(() if effects is None else ("## Effects", _table(effects, MOST_EFFECTS))),
        "## Again",
        f"`{result.command} --store arms --out studies`: {len(result.rows)} of {result.planned} arms and seeds, {number(result.seconds, 3)} s of them one after the other. "
        f"[Everything that was measured, to look at]({result.name}.html).",
    ]
    return "\n\n".join(lines)


def _drawn(result: StudyResult, pictures: Sequence[str]) -> list[str]:
    """The claim beside what was measured, where both are narrow."""
    beside = len(pictures) > 1 and pictures[1].endswith("-claim.png")
    width = "{ width=49% }" if beside else ""
    drawn = [f"![{_alt(result, name)}]({name})" for name in pictures]
    return [" ".join(f"{one}{width}" for one in drawn[: 1 + beside]), *drawn[1 + beside :]]


def _alt(result: StudyResult, name: str) -> str:
    if name.endswith("-claim.png"):
        return "the claim, sketched"
    return next(
        one.title
        for one in reversed(result.pictures)
        if f"-{one.key}." in name or one is result.pictures[0]
    )


def _seed(result: StudyResult) -> int:
    return min(row.seed for row in result.rows)


def _index(told: Overview, again: Sequence[Mapping[str, StudyResult]]) -> str:
    batches = batches_table(told)
    claims = overview_table(told)
    seeds = [_seed(next(iter(results.values()))) for results in again]
    header = (*claims.header[:2], *(f"from seed {seed}" for seed in seeds), *claims.header[2:4])
    linked = [
        (f"[{row[0]}]({row[0]}.md)", row[1], *(_verdict(results, str(row[0])) for results in again), *row[2:4])
        for row in claims.rows
    ]  # fmt: skip
    lines = [
        "# What the studies found",
        WRITTEN,
        f"{told.headline()} [All on one page, to look at](overview.html). How to run them, on your model too: "
        "[Claims, measured](../studies.md).",
        *(
            [
                f"Each was measured again with other seeds, from {' and from '.join(map(str, seeds))} on."
            ]
            if seeds
            else []
        ),
        _table(Table(header, tuple(linked))),
        "## Small against large batches",
        "The table as it is taught, and what was measured for each line of it.",
        *(() if batches is None else (_table(batches),)),
    ]
    return "\n\n".join(lines)


def _verdict(results: Mapping[str, StudyResult], name: str) -> str:
    return str(results[name].verdict) if name in results else "not run"


def _table(table: Table, most: int = 1000) -> str:
    rows = [table.header, ("---",) * len(table.header), *table.rows[:most]]
    text = "\n".join(
        "| " + " | ".join(" ".join(str(cell).split()).replace("|", "\\|") for cell in row) + " |"
        for row in rows
    )
    left = len(table.rows) - most
    return f"{text}\n\n{left} more are in the interactive page." if left > 0 else text


def _write(path: Path, text: str) -> None:
    path.write_text(f"{text}\n", encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main(sys.argv[1:])
