"""What came out of a study: the verdict, the effects behind it, and every raw value."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from unstick.data.own import blaming
from unstick.errors import UnstickError
from unstick.record import Fact, Record, number
from unstick.studies.frame.comparing import Effect, Verdict
from unstick.studies.frame.plan import Decision, Picture, Setting, Study
from unstick.studies.frame.table import Row, Table

__all__ = ["StudyResult", "blamed", "result_of"]


@dataclass(frozen=True, slots=True, eq=False)
class StudyResult(Record):
    """A study that was run, wholly or in part."""

    name: str
    claim: str
    source: str
    question: str
    measured: str
    rule: str
    criticism: str
    verdict: Verdict
    said: str
    effects: tuple[Effect, ...]
    pictures: tuple[Picture, ...]
    arms: tuple[str, ...]
    rows: tuple[Row, ...]
    planned: int  # arms times seeds
    command: str  # that gives it again
    seconds: float  # of all arms, one after the other
    outcome: str  # "complete", "interrupted" or "part 1 of 2"

    def headline(self) -> str:
        """The claim and what became of it."""
        part = "" if self.outcome == "complete" else f" ({self.outcome}: what was measured so far)"
        if self.rows and all(row.failed for row in self.rows):
            part = " (every arm failed: nothing was measured)"
        return f"{self.claim}: {self.verdict}{part}."

    def facts(self) -> list[Fact]:
        """The claim, what was measured, and by which rule it was decided."""
        failed = [row for row in self.rows if row.failed]
        facts = [
            ("study", f"{self.name} ({self.source})"),
            ("found", self.said),
            ("rule", self.rule),
            *(("effect", str(effect)) for effect in self.effects),
            ("against it", self.criticism),
            (
                "run",
                f"{len(self.rows) - len(failed)} of {self.planned} arms and seeds{f', {len(failed)} failed' if failed else ''}, "
                f"{number(self.seconds, 3)} s",
            ),
            ("again", self.command),
        ]
        return facts + [("failed", f"{row.arm}, seed {row.seed}: {row.failed}") for row in failed]


def result_of(study: Study, setting: Setting, rows: list[Row], *, outcome: str) -> StudyResult:
    """Apply a study's rule to the rows that there are.

    Raises:
        UnstickError: A study of the user's own cannot decide; says where in its file.
    """
    tasks = study.planned(setting)
    place = {(task.arm.name, task.seed): at for at, task in enumerate(tasks)}
    kept = tuple(
        sorted(
            (row for row in rows if (row.arm, row.seed) in place),
            key=lambda row: place[row.arm, row.seed],
        )
    )
    arms = tuple(dict.fromkeys(task.arm.name for task in tasks))
    table = Table(
        kept,
        arms,
        {task.arm.name: {str(k): v for k, v in task.arm.knobs.items()} for task in tasks},
    )
    known = any(not row.failed for row in kept)
    why = f" Every arm failed, the first by {kept[0].failed}" if kept else ""
    nothing = Decision(Verdict.INCONCLUSIVE, f"Nothing was measured.{why}")
    with blamed(study, "deciding"):
        decision = study.decide(table) if known else nothing
        pictures = tuple(study.pictures(table)) if known else ()
    return StudyResult(
        name=study.name,
        claim=study.claim,
        source=study.source,
        question=study.question,
        measured=study.measured,
        rule=study.rule,
        criticism=study.criticism,
        verdict=decision.verdict,
        said=decision.said,
        effects=decision.effects,
        pictures=pictures,
        arms=arms,
        rows=kept,
        planned=len(tasks),
        command=command_of(study, setting),
        seconds=sum(row.seconds for row in kept),
        outcome=outcome,
    )


@contextmanager
def blamed(study: Study, what: str) -> Generator[None]:
    """Turn what a user's own study raises into one line with the place in its file; ours should not raise.

    Raises:
        UnstickError: Something was raised.
    """
    if not study.place:
        yield
        return
    with blaming(Path(study.place.rpartition(".py")[0] + ".py"), what, error=UnstickError):
        yield


def command_of(study: Study, setting: Setting) -> str:
    """What to type to get the same again."""
    parts = ["unstick study run", study.place or study.name]
    parts.append("--full" if setting.full else "--quick")
    for name in ("data", "model", "seeds"):
        value = getattr(setting, name)
        if value is not None:
            parts.append(f"--{name} {value}")
    if setting.seed:
        parts.append(f"--seed {setting.seed}")
    return " ".join(parts)
