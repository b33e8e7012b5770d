"""Graphs and the work beside them stay within what they were given; what cannot is refused before it is taken."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unstick.errors import TooLittleMemory
from unstick.problem import memory
from unstick.problem.memory import (
    ALLOCATOR,
    PIECE,
    Graphs,
    available,
    check_graphs,
    largest_batch,
    plan_graphs,
)

ROOT = Path(__file__).parents[2]
GIBIBYTE = 2.0**30
CPU = torch.device("cpu")
UP = 1 + 1e-9  # rounding

COUNTS = st.integers(1, 5000)
BATCHES = st.lists(COUNTS, min_size=1, max_size=30)
PER_SAMPLE = st.floats(1.0, 1e7)
VECTOR = st.floats(0.0, 1e9)
MEMORY = st.floats(1e3, 1e12)


@given(BATCHES, PER_SAMPLE, VECTOR, MEMORY)
def test_kept_graphs_and_work_never_take_more_than_the_memory_unless_one_batch_does(
    sizes, per_sample, vector, memory
):
    given = {"per_sample": per_sample, "vector": vector, "memory": memory}
    plan = plan_graphs(sizes, **given)
    alone = plan_graphs([max(sizes)], **given, keep=False)

    assert plan.peak_bytes <= memory * UP or not any(plan.kept)
    if plan.peak_bytes > memory * UP:
        assert plan.peak_bytes == pytest.approx(alone.peak_bytes)
    held = sum(
        per_sample * size + vector for size, stays in zip(sizes, plan.kept, strict=True) if stays
    )
    assert plan.kept_bytes == pytest.approx(held)


@given(BATCHES, PER_SAMPLE, VECTOR, MEMORY)
def test_nothing_is_kept_where_nothing_is_to_stay(sizes, per_sample, vector, memory):
    given = {"per_sample": per_sample, "vector": vector, "memory": memory}
    none, some = plan_graphs(sizes, **given, keep=False), plan_graphs(sizes, **given)

    assert not any(none.kept)
    assert none.kept_bytes == 0
    assert none.peak_bytes <= some.peak_bytes * UP or all(some.kept)


@given(BATCHES, PER_SAMPLE, VECTOR, MEMORY, st.floats(1.0, 100.0))
def test_more_memory_never_keeps_fewer_bytes_of_graphs(sizes, per_sample, vector, memory, more):
    less, enough = (
        plan_graphs(sizes, per_sample=per_sample, vector=vector, memory=room)
        for room in (memory, more * memory)
    )

    assert less.kept_bytes <= enough.kept_bytes * UP


@given(COUNTS, st.integers(0, 30), st.data(), PER_SAMPLE, VECTOR, MEMORY, st.floats(1.0, 100.0))
def test_more_memory_never_keeps_fewer_graphs_of_equal_batches(
    size, count, data, per_sample, vector, memory, more
):
    sizes = [size] * count + [data.draw(st.integers(1, size))]  # the last one may be ragged
    less, enough = (
        plan_graphs(sizes, per_sample=per_sample, vector=vector, memory=room)
        for room in (memory, more * memory)
    )

    assert sum(less.kept) <= sum(enough.kept)


def test_of_unequal_batches_one_large_graph_may_take_the_place_of_two_small_ones():
    sizes, step = [100, 49, 49, 49, 49], 1e3
    work = plan_graphs(sizes, per_sample=step, vector=0.0, memory=0.0).peak_bytes
    kept = [
        plan_graphs(sizes, per_sample=step, vector=0.0, memory=UP * (work + ALLOCATOR * more)).kept
        for more in (98 * step, 100 * step)
    ]

    assert kept == [(False, True, True, False, False), (True, False, False, False, False)]


def test_room_for_all_graphs_is_less_than_room_for_rebuilding_the_last():
    """A graph that stays is not built beside itself."""
    sizes, given = [100] * 4, {"per_sample": 1e3, "vector": 0.0}
    every = plan_graphs(sizes, **given, memory=1e9)

    assert all(plan_graphs(sizes, **given, memory=every.peak_bytes * UP).kept)
    less = plan_graphs(sizes, **given, memory=every.peak_bytes / UP)
    assert 0 < sum(less.kept) < 4


@given(BATCHES, PER_SAMPLE, VECTOR, MEMORY)
def test_so_many_columns_fit_and_one_more_does_not(sizes, per_sample, vector, memory):
    plan = plan_graphs(sizes, per_sample=per_sample, vector=vector, memory=memory)
    columns = plan.columns(memory)

    def taken(count):
        return plan.peak_bytes + ALLOCATOR * (count - 1) * max(1.0, plan.column_bytes)

    assert columns >= 1
    assert columns == 1 or taken(columns) <= memory * UP
    assert taken(columns + 1) > memory / UP


def test_without_a_limit_every_graph_stays_and_any_column_goes_through():
    plan = plan_graphs([5, 7], per_sample=10.0, vector=4.0, memory=float("inf"))

    assert plan.kept == (True, True)
    assert plan.columns(float("inf")) is None


@given(PER_SAMPLE, MEMORY)
def test_the_largest_batch_is_rebuilt_in_a_quarter_of_the_memory(per_sample, memory):
    batch = largest_batch(per_sample=per_sample, memory=memory)

    def taken(size):
        plan = plan_graphs([size], per_sample=per_sample, vector=0.0, memory=0.0, keep=False)
        return plan.peak_bytes

    assert batch >= 1
    assert batch == 1 or taken(batch) <= PIECE * memory * UP
    assert taken(batch + 1) > PIECE * memory / UP
    assert largest_batch(per_sample=per_sample, memory=2 * memory) >= batch


@given(st.floats(1.0, 1e12), st.floats(0.5, 2.0), st.floats(0.5, 2.0), st.booleans())
def test_graphs_are_refused_exactly_where_they_do_not_fit(peak, limit, free, strict):
    graphs = Graphs((False,), 0.0, 0.0, peak / ALLOCATOR, 0.0)
    memory_given, left = int(limit * peak), free * peak
    over_limit = strict and graphs.peak_bytes > memory_given
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "available", lambda device: left)
        if not over_limit and graphs.peak_bytes <= left:
            check_graphs(graphs, memory_given, CPU, strict=strict)
            return
        with pytest.raises(TooLittleMemory) as refusal:
            check_graphs(graphs, memory_given, CPU, strict=strict)
    told = str(refusal.value)
    assert "\n" not in told
    assert ("memory= allows" in told) == over_limit
    [enough] = re.findall(r"memory=([\d.e+]+) or more", told)
    assert float(enough) >= graphs.peak_bytes  # what is advised would do


def test_where_nothing_is_known_about_the_machine_only_the_limit_counts(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda device: None)
    graphs = Graphs((False,), 0.0, 0.0, 1e15, 0.0)

    check_graphs(graphs, 10, CPU, strict=False)
    with pytest.raises(TooLittleMemory, match="memory= allows 10 bytes"):
        check_graphs(graphs, 10, CPU, strict=True)


# -- what the machine has --------------------------------------------------------------------------

MACHINE = {"/proc/meminfo": "MemTotal: 16777216 kB\nMemAvailable: 4194304 kB\n"}  # 4 GiB
SECOND, FIRST = "/sys/fs/cgroup/", "/sys/fs/cgroup/memory/"


def group(folder, limit, used, given_back=0.0):
    """The files of a control group, in GiB."""
    new = folder == SECOND
    names = (
        ("memory.max", "memory.current", "inactive_file")
        if new
        else ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    )
    bound = limit if isinstance(limit, str) else f"{limit * GIBIBYTE:.0f}"
    return {
        folder + names[0]: f"{bound}\n",
        folder + names[1]: f"{used * GIBIBYTE:.0f}\n",
        folder + "memory.stat": f"anon 5\n{names[2]} {given_back * GIBIBYTE:.0f}\n",
    }


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        (MACHINE, 4.0),
        (MACHINE | group(SECOND, 8, 6), 2.0),
        (MACHINE | group(SECOND, 8, 6, 1), 3.0),  # cached files give way
        (MACHINE | group(SECOND, 64, 6), 4.0),  # the machine has less
        (MACHINE | group(SECOND, "max", 6), 4.0),
        (MACHINE | group(FIRST, 8, 7, 0.5), 1.5),
        (MACHINE | group(FIRST, 4, 5), 0.0),
        (group(SECOND, 8, 6), 2.0),
    ],
)
def test_what_is_free_is_the_least_of_what_machine_and_control_group_leave(
    monkeypatch, files, expected
):
    monkeypatch.setattr(memory, "_read", lambda path: files.get(path, ""))

    free = available(CPU)

    assert (None if free is None else free / GIBIBYTE) == expected


def test_of_a_device_that_tells_nothing_nothing_is_known():
    assert available(torch.device("meta")) is None


# -- and in truth ----------------------------------------------------------------------------------


@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="the peak of a process is read from Linux"
)
def test_a_fresh_process_grows_by_no_more_than_the_memory_it_was_given():
    """Graphs of about 160 MiB in 64 MiB: the kernel's own count of the peak, while products are computed."""
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "memory.py", "perceptron", "64", "5120"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    words = done.stdout.split()  # model, budget, all graphs, "k of m", planned, probe, products, of
    all_graphs, kept, of_budget = float(words[2]), int(words[3]), float(words[-1])

    assert all_graphs > 2 * 64
    assert kept > 0
    assert 0.5 < of_budget <= 1.10
