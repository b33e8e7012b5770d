"""A study loses nothing, mixes nothing, and gives the same table however it is run."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from unstick.errors import UnstickError
from unstick.studies.frame import (
    Decision,
    Effect,
    Setting,
    Side,
    Store,
    Table,
    Verdict,
    all_studies,
    combined,
    find_study,
    merge_stores,
    overview_of,
    paired,
    results_of,
    run_study,
    share,
    verdict_of,
)
from unstick.studies.frame.store import BadStore
from unstick.studies.frame.table import Row

STUDY = '''
"""A study of dice, for tests."""
import time
from unstick.studies.frame import Arm, Decision, Picture, Series, Study, Verdict, paired, verdict_of, Side

def arms(setting):
    return [Arm("fair", {"sides": 6}), Arm("large", {"sides": 20}), Arm("broken", {"sides": 0})]

def measure(task):
    time.sleep(PAUSE)
    if task.arm["sides"] == 0:
        raise ValueError("a die without\\nsides")
    throws = [1 + float(x) for x in __import__("torch").randint(task.arm["sides"], (20,), generator=task.generator())]
    return {"mean": sum(throws) / 20, "throws": tuple(throws), "worst": float("inf"), "word": "ok", "none": None}

def decide(table):
    effect = paired(table, "mean", "large", "fair")
    return Decision(verdict_of(effect, Side.ABOVE), f"{effect.difference:.3g} more", (effect,))

def pictures(table):
    return [Picture("dice", "Dice", "Means.", "arm", "mean",
            tuple(Series(a, (a,), (table.mean("mean", a),), kind="bars") for a in table.arms))]

STUDY = Study(name="dice", claim="More sides, more points", source="a test", question="Do they?", measured="Means of 20 throws",
    rule="Supported if above", criticism="None", arms=arms, measure=measure, decide=decide, pictures=pictures,
    seeds=(4, 8), takes=("data",))
'''


@pytest.fixture
def dice(tmp_path):
    path = tmp_path / "dice.py"
    path.write_text(STUDY.replace("PAUSE", "0.0"))
    return find_study(str(path))


def table(rows):
    return [(row.arm, row.seed, dict(row.values), row.failed) for row in rows]


def planted(first, second):
    rows = [Row("a", seed, {"x": value}, 0.0) for seed, value in enumerate(first)]
    rows += [Row("b", seed, {"x": value}, 0.0) for seed, value in enumerate(second)]
    return Table(tuple(rows), ("a", "b"), {})


def test_an_arm_that_raises_is_marked_and_no_other_is_lost(dice):
    told = run_study(dice, Setting(), backend="here")

    assert told.outcome == "complete"
    assert [bool(row.failed) for row in told.rows] == [False, False, True] * 4
    assert told.rows[2].failed == "ValueError: a die without sides"
    assert told.verdict == Verdict.SUPPORTED


def test_processes_give_the_table_of_one(dice):
    here = run_study(dice, Setting(seed=3), backend="here")
    there = run_study(dice, Setting(seed=3), backend="processes", jobs=2)

    assert table(here.rows) == table(there.rows)
    assert here.effects == there.effects


def test_what_is_stored_reads_back_as_it_was_and_is_not_run_again(dice, tmp_path):
    first = run_study(dice, Setting(), store=tmp_path / "store", backend="here")
    told: list[tuple] = []

    again = run_study(
        replace(dice, measure=_never),
        Setting(),
        store=None,
        backend="here",
    )
    second = run_study(
        dice, Setting(), store=tmp_path / "store", progress=lambda *said: told.append(said)
    )

    assert all("never" in row.failed for row in again.rows)  # the stand-in does fail when it is run
    assert table(first.rows) == table(second.rows)
    assert told[0] == ("dice", 8, 12)  # the four that failed are tried again
    assert told[-1] == ("dice", 12, 12)
    assert second.rows[0].values["worst"] == float("inf")
    assert isinstance(second.rows[0].values["throws"], tuple)


def _never(_task):
    raise RuntimeError("never")


def test_a_torn_last_line_is_dropped_and_measured_again(dice, tmp_path):
    whole = run_study(dice, Setting(), store=tmp_path, backend="here")
    path = tmp_path / "dice.jsonl"
    raw = path.read_bytes()
    path.write_bytes(raw[: len(raw) - 37])

    again = run_study(dice, Setting(), store=tmp_path, backend="here")

    assert table(again.rows) == table(whole.rows)
    assert len(path.read_text().splitlines()) == 13 + 3  # the other three that failed are tried too


def test_a_line_damaged_in_the_middle_is_refused_with_its_number(dice, tmp_path):
    run_study(dice, Setting(), store=tmp_path, backend="here")
    path = tmp_path / "dice.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:3], "{broken\n", *lines[4:]]))

    with pytest.raises(BadStore, match="damaged in line 4"):
        run_study(dice, Setting(), store=tmp_path)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        (Setting(seed=1), "seed was 0, asked is 1"),
        (Setting(full=True), "scale was 'quick', asked is 'full'"),
        (Setting(seeds=2), "seeds was None, asked is 2"),
    ],
)
def test_a_store_of_other_settings_is_refused_and_untouched(dice, tmp_path, setting, said):
    run_study(dice, Setting(), store=tmp_path, backend="here")
    before = (tmp_path / "dice.jsonl").read_bytes()

    with pytest.raises(BadStore, match=said):
        run_study(dice, setting, store=tmp_path)
    assert (tmp_path / "dice.jsonl").read_bytes() == before


def test_a_store_of_other_code_is_refused(tmp_path):
    path = tmp_path / "dice.py"
    path.write_text(STUDY.replace("PAUSE", "0.0"))
    run_study(find_study(str(path)), Setting(), store=tmp_path / "store", backend="here")
    path.write_text(STUDY.replace("PAUSE", "0.0").replace("(20,)", "(21,)"))

    with pytest.raises(BadStore, match="other code"):
        run_study(find_study(str(path)), Setting(), store=tmp_path / "store")


def test_another_rule_or_caption_leaves_the_arms_as_they_are(tmp_path):
    path = tmp_path / "dice.py"
    text = STUDY.replace("PAUSE", "0.0")
    path.write_text(text)
    first = run_study(find_study(str(path)), Setting(), store=tmp_path / "store", backend="here")
    changed = text.replace("Side.ABOVE)", "Side.BELOW)").replace('"Means."', '"Mean throws."')
    assert changed != text
    path.write_text(changed)
    again = run_study(find_study(str(path)), Setting(), store=tmp_path / "store", backend="here")

    assert first.verdict == Verdict.SUPPORTED
    assert again.verdict == Verdict.CONTRADICTED
    # to the second: nothing was measured again but what failed
    measured = [row for row in first.rows if not row.failed]
    assert [row for row in again.rows if not row.failed] == measured


def test_two_halves_merge_to_the_whole(dice, tmp_path):
    whole = run_study(dice, Setting(), store=tmp_path / "whole", backend="here")
    lines = (tmp_path / "whole" / "dice.jsonl").read_text().splitlines(keepends=True)
    for name, rows in (("a", lines[1:8]), ("b", lines[5:])):  # three arms in both
        (tmp_path / name).mkdir()
        (tmp_path / name / "dice.jsonl").write_text("".join([lines[0], *rows]))

    counts = merge_stores([tmp_path / "a", tmp_path / "b"], tmp_path / "both")
    merged = run_study(dice, Setting(), store=tmp_path / "both", backend="here")

    assert counts == (12, 3)
    assert table(merged.rows) == table(whole.rows)


def test_what_failed_is_tried_again_and_what_was_measured_stands(tmp_path):
    gate = tmp_path / "gate"
    path = tmp_path / "dice.py"
    broken = 'task.arm["sides"] == 0'
    path.write_text(
        STUDY.replace("PAUSE", "0.0")
        .replace(
            broken, f'task.arm["sides"] == 0 and not __import__("os").path.exists({str(gate)!r})'
        )
        .replace('randint(task.arm["sides"]', 'randint(task.arm["sides"] or 4')
    )
    study, store = find_study(str(path)), tmp_path / "store"

    first = run_study(study, Setting(), store=store, backend="here")
    gate.touch()  # what it wanted is there now
    second = run_study(study, Setting(), store=store, backend="here")
    gate.unlink()
    third = run_study(study, Setting(), store=store, backend="here")

    assert [bool(row.failed) for row in first.rows] == [False, False, True] * 4
    assert not any(row.failed for row in second.rows)
    assert [row for row in second.rows if row.arm != "broken"] == [
        row for row in first.rows if not row.failed
    ]
    assert third.rows == second.rows == results_of(store)[0].rows


def test_merging_prefers_what_was_measured_to_what_failed(dice, tmp_path):
    whole = run_study(dice, Setting(), store=tmp_path / "whole", backend="here")
    header, *rows = (tmp_path / "whole" / "dice.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "lost").mkdir()
    lost = [
        json.dumps(json.loads(row) | {"values": {}, "failed": "LostWorker: gone"}) + "\n"
        for row in rows
    ]
    (tmp_path / "lost" / "dice.jsonl").write_text("".join([header, *lost]))

    for order in (("lost", "whole"), ("whole", "lost")):
        into = tmp_path / "-".join(order)
        merge_stores([tmp_path / name for name in order], into)
        told = Store.read(into / "dice.jsonl").rows
        assert sorted(table(row for row in told if not row.failed), key=str) == sorted(
            table(row for row in whole.rows if not row.failed), key=str
        )
        assert sum(bool(row.failed) for row in told) == 4  # which never were anything else


@pytest.mark.parametrize("parts", [2, 3, 4])
def test_the_parts_of_several_machines_merge_to_the_whole(dice, tmp_path, parts):
    whole = run_study(dice, Setting(), backend="here")

    told = [
        run_study(dice, Setting(), store=tmp_path / str(at), part=(at, parts), backend="here")
        for at in range(1, parts + 1)
    ]
    counts = merge_stores([tmp_path / str(at) for at in range(1, parts + 1)], tmp_path / "all")
    merged = results_of(tmp_path / "all")[0]

    assert [one.outcome for one in told] == [f"part {at} of {parts}" for at in range(1, parts + 1)]
    seeds = [{row.seed for row in one.rows} for one in told]
    assert sum(map(len, seeds)) == len(set().union(*seeds)) == 4  # whole seeds, none twice
    assert counts == (12, 0)
    assert table(merged.rows) == table(whole.rows)
    assert (merged.outcome, merged.verdict) == ("complete", whole.verdict)


def test_a_part_goes_on_where_it_was(dice, tmp_path):
    first = run_study(dice, Setting(), store=tmp_path, part=(2, 2), backend="here")
    again = run_study(dice, Setting(), store=tmp_path, part=(2, 2), backend="here")
    whole = run_study(dice, Setting(), store=tmp_path, part=(1, 2), backend="here")

    measured = [row for row in first.rows if not row.failed]
    assert [row for row in again.rows if not row.failed] == measured
    assert whole.outcome == "complete"


@pytest.mark.parametrize("part", [(5, 5), (0, 2), (3, 2)])
def test_a_part_without_a_seed_is_refused(dice, tmp_path, part):
    with pytest.raises(UnstickError, match=f"part {part[0]} of {part[1]} of 4 seeds"):
        run_study(dice, Setting(), store=tmp_path, part=part, backend="here")


def test_halves_of_other_settings_do_not_merge_and_nothing_is_written(dice, tmp_path):
    run_study(dice, Setting(), store=tmp_path / "a", backend="here")
    run_study(dice, Setting(seed=9), store=tmp_path / "b", backend="here")

    with pytest.raises(
        BadStore, match=r"a.dice.jsonl and .*b.dice.jsonl cannot be joined.*seed 0 and 9"
    ):
        merge_stores([tmp_path / "a", tmp_path / "b"], tmp_path / "both")
    assert not (tmp_path / "both").exists()


def test_two_runs_do_not_write_one_store(dice, tmp_path):
    with Store.opened(tmp_path, dice, Setting()) as kept:
        kept.add(Row("fair", 0, {"mean": 3.5}, 0.1))
        before = kept.path.read_bytes()
        with pytest.raises(BadStore, match="is being written by another run"):
            run_study(dice, Setting(), store=tmp_path, backend="here")
        assert kept.path.read_bytes() == before

    assert run_study(dice, Setting(), store=tmp_path, backend="here").outcome == "complete"


def test_a_full_disk_is_one_line_and_what_is_kept_stays(dice, tmp_path, monkeypatch):
    store = Store.open(tmp_path, dice, Setting())
    store.add(Row("fair", 0, {"mean": 3.5}, 0.1))

    def full(_handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BadStore, match=r"takes no more.*1 finished arms are in it") as refusal:
        store.add(Row("fair", 1, {"mean": 3.5}, 0.1))
    assert "\n" not in str(refusal.value)
    assert len(Store.read(tmp_path / "dice.jsonl").rows) >= 1


@pytest.mark.slow
def test_killed_at_random_moments_and_resumed_it_gives_the_same_table(tmp_path):
    path = tmp_path / "dice.py"
    path.write_text(STUDY.replace("PAUSE", "0.02"))
    store = tmp_path / "store"
    script = (
        "import sys; from pathlib import Path; from unstick.studies.frame import *; print('begun', flush=True); "
        f"run_study(find_study({str(path)!r}), Setting(full=True), store=Path({str(store)!r}), backend='here')"
    )
    held = []
    for pause in (0.03, 0.11, 0.07):
        process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(pause)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        kept = store / "dice.jsonl"  # the folder is there before it, for the lock
        held.append(len(Store.read(kept).rows) if kept.exists() else 0)

    resumed = run_study(find_study(str(path)), Setting(full=True), store=store, backend="here")
    whole = run_study(find_study(str(path)), Setting(full=True), backend="here")

    assert 0 < held[-1] < 24  # it was indeed killed on the way
    assert table(resumed.rows) == table(whole.rows)


def test_an_interrupted_study_decides_on_what_there_is(dice):
    seen = []

    def stop(*said):
        seen.append(said)
        if len(seen) == 6:
            raise KeyboardInterrupt

    told = run_study(dice, Setting(), backend="here", progress=stop)

    assert told.outcome == "interrupted"
    assert len(told.rows) == 5
    assert overview_of([told], ["dice", "other"]).missing == ("other",)


def test_a_store_can_be_decided_again_without_running(tmp_path):
    study = find_study("dimension")
    setting = Setting(seeds=1)
    first = run_study(study, setting, store=tmp_path, backend="here")

    [again] = results_of(tmp_path)

    assert table(again.rows) == table(first.rows)
    assert again.verdict == first.verdict
    assert again.command == "unstick study run dimension --quick --seeds 1"


def test_data_that_a_study_does_not_take_are_refused():
    with pytest.raises(UnstickError, match="dimension has its own data"):
        run_study(find_study("dimension"), Setting(data="iris"))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("dimensoin", "close to it: dimension"),
        ("nothing.py", "does not exist"),
        (str(Path(__file__)), "not an? |expected an unstick Study"),
    ],
)
def test_an_unknown_study_is_refused_in_one_line(name, said):
    if name == str(Path(__file__)):
        name += ":STORE"
    with pytest.raises(UnstickError, match=said) as refusal:
        find_study(name)
    assert "\n" not in str(refusal.value)


def test_every_study_states_its_claim_and_fixes_its_rule_in_advance():
    for study in all_studies():
        for text in (study.claim, study.source, study.question, study.measured, study.criticism):
            assert len(text) > 10, study.name
        assert "support" in study.rule.lower(), study.name
        arms = [arm.name for arm in study.arms(Setting())]
        assert len(arms) == len(set(arms)), study.name
        assert json.dumps(Setting().written())


def test_a_paired_interval_is_students():
    first, second = [1.0, 2.0, 4.0, 3.0], [0.5, 1.5, 2.0, 2.5]

    effect = paired(planted(first, second), "x", "a", "b")

    # differences .5, .5, 2, .5: mean .875, deviation .75, t(3; .975) = 3.182446
    assert effect.difference == pytest.approx(0.875)
    assert effect.low == pytest.approx(0.875 - 3.182446 * 0.75 / 2, abs=1e-6)
    assert effect.high == pytest.approx(0.875 + 3.182446 * 0.75 / 2, abs=1e-6)


def test_the_means_beside_a_difference_are_of_the_seeds_that_both_arms_have():
    rows = [Row("a", seed, {"x": value}, 0.0) for seed, value in enumerate((1.0, 2.0, 9.0))]
    rows += [Row("b", seed, {"x": value}, 0.0) for seed, value in enumerate((0.0, 0.0))]

    effect = paired(Table(tuple(rows), ("a", "b"), {}), "x", "a", "b")

    assert (effect.first, effect.second, effect.difference) == (1.5, 0.0, 1.5)


def test_more_comparisons_widen_each_interval():
    one = paired(planted([1.0, 2.0, 4.0], [0.0, 1.0, 2.0]), "x", "a", "b")
    ten = paired(planted([1.0, 2.0, 4.0], [0.0, 1.0, 2.0]), "x", "a", "b", comparisons=10)

    assert ten.low < one.low < one.high < ten.high
    assert ten.confidence == pytest.approx(0.995)


@pytest.mark.parametrize(
    ("first", "second", "verdict"),
    [
        ([3.0, 3.1, 3.2], [1.0, 1.1, 1.3], Verdict.SUPPORTED),
        ([1.0, 1.1, 1.3], [3.0, 3.1, 3.2], Verdict.CONTRADICTED),
        ([1.0, 3.0, 2.0], [2.0, 1.0, 2.5], Verdict.INCONCLUSIVE),
        ([3.0], [1.0], Verdict.INCONCLUSIVE),  # one seed shows nothing
        ([3.0, float("inf")], [1.0, 1.0], Verdict.INCONCLUSIVE),
        ([], [], Verdict.INCONCLUSIVE),
    ],
)
def test_a_verdict_follows_from_the_whole_interval(first, second, verdict):
    effect = paired(planted(first, second), "x", "a", "b")

    assert verdict_of(effect, Side.ABOVE) == verdict


def test_a_claim_of_several_parts_needs_all_of_them():
    yes, no, open_ = Verdict.SUPPORTED, Verdict.CONTRADICTED, Verdict.INCONCLUSIVE

    assert combined([yes, yes]) == yes
    assert combined([yes, open_]) == open_
    assert combined([open_, no, yes]) == no
    assert combined([]) == open_


def test_a_share_has_the_exact_interval():
    effect = share(0, 20, name="none", unit="throws")

    assert effect.low == 0.0
    assert effect.high == pytest.approx(1 - 0.025 ** (1 / 20), abs=1e-9)  # Clopper and Pearson
    assert isinstance(effect, Effect)
    assert Decision(Verdict.INCONCLUSIVE, "").effects == ()
