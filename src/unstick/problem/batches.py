"""The data of a problem, frozen: the same samples in the same order for every evaluation.

Answers: which batches are there, how many samples has each, which rows are a given sample?
Does not answer: what the loss of a batch is, or what it weighs.
"""

import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils.data import DataLoader, IterableDataset, Subset

from unstick.errors import BadData, NonFinite
from unstick.problem.guard import put_back_randomness

__all__ = [
    "Batch",
    "Whole",
    "choose_rows",
    "chosen_rows",
    "describe",
    "digest",
    "freeze",
    "leaves",
    "merge",
    "place",
    "regroup",
    "rows_between",
    "size_of",
    "split_rows",
    "take",
]

Batch = Any
"""Whatever the user's loader yields: tensors in tuples, lists and mappings, or something of their own."""


@dataclass(frozen=True, eq=False)
class Whole:
    """What a process that holds a part of the batches knows about all of them."""

    weight: float  # of all batches
    samples: int  # in all batches (batches, where samples cannot be counted)
    first: Batch  # a few samples of the first batch: every process probes with the same
    starts: Sequence[int]  # number of the first sample of each batch that this process holds
    countable: bool  # whether samples can be told apart


CHUNK_ELEMENTS = (
    2**22
)  # a pair of tensors is cut so that a batch of inputs holds about so many numbers


def leaves(batch: Batch) -> list[Tensor]:
    """The tensors of a batch, in order."""
    return [leaf for leaf in pytree.tree_leaves(batch) if isinstance(leaf, Tensor)]


def size_of(batch: Batch) -> int | None:
    """Samples in a batch: the length that all its tensors share, or ``None``."""
    lengths = {leaf.shape[0] if leaf.ndim else -1 for leaf in leaves(batch)}
    if len(lengths) != 1:
        return None
    length = lengths.pop()
    return length if length >= 0 else None


def take(batch: Batch, rows: Tensor) -> Batch:
    """The given rows of every tensor of a batch that has a size."""
    return pytree.tree_map_only(Tensor, lambda leaf: leaf[rows.to(leaf.device)], batch)


def merge(batches: Sequence[Batch]) -> Batch | None:
    """One batch out of several of the same structure, or ``None`` where they do not fit together."""
    if len(batches) == 1:
        return batches[0]
    flat = [pytree.tree_flatten(batch) for batch in batches]
    columns = list(zip(*(items for items, _ in flat), strict=False))
    same = all(spec == flat[0][1] for _, spec in flat)
    if not same or not all(_stackable(column) for column in columns):
        return None
    return pytree.tree_unflatten([torch.cat(column) for column in columns], flat[0][1])


def split_rows(batch: Batch, rows: int) -> list[Batch]:
    """A batch cut into pieces of at most ``rows`` samples, equal ones where that takes at most half as many again.

    Equal pieces share what is recorded for their shape.
    """
    size = size_of(batch)
    if size is None or size <= rows:
        return [batch]
    fewest = -(-size // rows)
    equal = (count for count in range(fewest, fewest + fewest // 2 + 1) if size % count == 0)
    rows = -(-size // next(equal, fewest))
    return [
        pytree.tree_map_only(Tensor, lambda leaf, s=start: leaf[s : s + rows], batch)
        for start in range(0, size, rows)
    ]


def describe(batch: Batch) -> str:
    """The shapes of a batch for a message: ``[32, 64] and [32]``."""
    shapes = [str(list(leaf.shape)) for leaf in leaves(batch)]
    return " and ".join(shapes) if shapes else type(batch).__name__


def place(batch: Batch, device: torch.device, dtype: torch.dtype) -> Batch:
    """A batch on a device, floating-point tensors in the given type."""

    def move(leaf: Tensor) -> Tensor:
        return leaf.to(device, dtype if leaf.is_floating_point() else leaf.dtype)

    return pytree.tree_map_only(Tensor, move, batch)


def freeze(
    data: Any, *, samples: int | None, seed: int, memory: int
) -> tuple[list[Batch], list[str]]:
    """Read the data once and keep them.

    Args:
        data: A DataLoader, a pair of tensors (inputs, targets), or a sequence of batches.
        samples: Keep a seeded random subset of so many samples; None keeps all.
        seed: Seed of that subset.
        memory: Most bytes to hold.

    Returns:
        The batches, and notes on what was done.

    Raises:
        BadData: No batch, no sample, more than fits, or something that is not data.
        NonFinite: A tensor holds inf or nan.
    """
    if samples is not None and samples < 1:
        raise BadData(f"samples={samples}; expected at least 1, or None for all")
    notes: list[str] = []
    if isinstance(data, DataLoader):
        batches = _read_loader(cast("DataLoader[Any]", data), samples, seed, memory, notes)
    elif _is_pair(data):
        batches = _read_pair(data, samples, seed, memory, notes)
    elif isinstance(data, Iterable) and not isinstance(data, (Tensor, Mapping, str)):
        source = cast("Iterable[Batch]", data)
        if samples is not None and isinstance(
            data, (list, tuple)
        ):  # held already: draw before copying
            source = _limit([_mapped(batch) for batch in source], samples, seed, notes)
        batches = list(_within(source, memory))
    else:
        raise BadData(
            f"data is {type(data).__name__}; expected a DataLoader, a pair (inputs, targets) of "
            "tensors, or a sequence of batches"
        )
    if not batches:
        raise BadData(
            "the data hold no batch: the loader is empty or, being a generator, already used up; "
            "give a list of batches or a fresh loader"
        )
    for index, batch in enumerate(batches):
        _check(batch, index)
    if samples is not None:
        batches = _limit(batches, samples, seed, notes)
    return batches, notes


def regroup(batches: list[Batch]) -> list[Batch]:
    """Batches of a loss that is a mean over samples, regrouped to a size that computes well.

    Whether samples really are independent (no statistics of the batch, samples along the first dimension) is for
    the caller to check.
    """
    sizes = [size_of(batch) for batch in batches]
    if any(size is None for size in sizes):
        return batches
    numbers = sum(leaf.numel() for batch in batches for leaf in leaves(batch))
    per_sample = max(1, numbers // max(1, sum(size or 0 for size in sizes)))
    whole = merge(batches)
    return batches if whole is None else split_rows(whole, max(64, CHUNK_ELEMENTS // per_sample))


def rows_between(batch: Batch, start: int, low: int, high: int) -> Batch | None:
    """Copies of a batch's samples from number ``low`` to ``high`` − 1, its first being ``start``; None where none is.

    Copies, so that the memory of the others can go.
    """
    begin, end = max(low - start, 0), min(high - start, size_of(batch) or 0)
    if begin >= end:
        return None
    return pytree.tree_map_only(Tensor, lambda leaf: leaf[begin:end].clone(), batch)


def chosen_rows(total: int, samples: int, seed: int) -> Tensor:
    """Which of ``total`` samples ``choose_rows`` takes, bool [total]."""
    chosen = torch.zeros(total, dtype=torch.bool)
    chosen[_choose(total, min(samples, total), seed)] = True
    return chosen


def digest(batches: Sequence[Batch]) -> int:
    """A checksum of all tensors of the batches, in order."""
    found = 0
    for leaf in (leaf for batch in batches for leaf in leaves(batch)):
        flat = leaf.detach().cpu().contiguous().reshape(-1)
        numbers: Any = flat.view(torch.uint8).numpy()
        found = zlib.crc32(numbers, found)
    return found


def choose_rows(batches: Sequence[Batch], samples: int, seed: int) -> list[Batch]:
    """At most ``samples`` samples of the batches, drawn at random where rows can be taken."""
    return _limit(list(batches), samples, seed, [])


def _is_pair(data: Any) -> bool:
    return (
        isinstance(data, (tuple, list))
        and len(cast("Sequence[Any]", data)) == 2
        and all(isinstance(part, Tensor) for part in cast("Sequence[Any]", data))
    )


def _read_pair(
    pair: Sequence[Tensor], samples: int | None, seed: int, memory: int, notes: list[str]
) -> list[Batch]:
    inputs, targets = pair
    if inputs.ndim == 0 or targets.ndim == 0 or len(inputs) != len(targets):
        raise BadData(
            f"inputs have shape {list(inputs.shape)} and targets {list(targets.shape)}; expected the same "
            "number of samples in both"
        )
    total = len(inputs)
    if total == 0:
        raise BadData("inputs and targets hold no sample; expected at least one")
    batch: Batch = (inputs.detach(), targets.detach())
    if samples is not None and samples < total:
        batch = take(batch, _choose(total, samples, seed))
        notes.append(f"a seeded random subset of {samples:,} of {total:,} samples")
    return list(_within([batch], memory))


def _read_loader(
    loader: DataLoader[Any], samples: int | None, seed: int, memory: int, notes: list[str]
) -> list[Batch]:
    """Iterate once; neither the global generators nor the loader's own move on."""
    inner = getattr(loader.batch_sampler, "sampler", None)
    owners: list[Any] = [loader, loader.sampler, loader.batch_sampler, inner]
    generators = {
        id(g): g for g in (getattr(owner, "generator", None) for owner in owners) if g is not None
    }
    before = [(generator, generator.get_state()) for generator in generators.values()]
    try:
        with put_back_randomness([]):
            source: Iterable[Batch] = (
                loader if samples is None else _drawn(loader, samples, seed, notes)
            )
            return list(_within(source, memory, samples))
    finally:
        for generator, state in before:
            generator.set_state(state)


def _drawn(loader: DataLoader[Any], samples: int, seed: int, notes: list[str]) -> Iterable[Batch]:
    """A loader of randomly chosen samples out of those that the given one visits."""
    dataset: Any = loader.dataset
    collate = cast("Callable[[list[Any]], Any]", loader.collate_fn)
    if isinstance(dataset, IterableDataset):
        notes.append(
            f"the first {samples:,} samples or so: an iterable data set cannot be drawn from at random"
        )
        return loader
    batched = cast("Iterable[Iterable[Any]] | None", loader.batch_sampler)
    visited = (
        list(loader.sampler) if batched is None else [index for batch in batched for index in batch]
    )
    order = torch.randperm(len(visited), generator=torch.Generator().manual_seed(seed)).tolist()
    visited.sort()  # a shuffling sampler must not change the draw
    if (
        batched is None
    ):  # each item is a batch already: read in random order until there are enough samples
        return DataLoader(
            Subset(dataset, [visited[i] for i in order]), batch_size=None, collate_fn=collate
        )
    if len(visited) <= samples:
        return loader
    notes.append(f"a seeded random subset of {samples:,} of {len(visited):,} samples")
    chosen = [visited[i] for i in sorted(order[:samples])]
    return DataLoader(
        Subset(dataset, chosen), batch_size=loader.batch_size or samples, collate_fn=collate
    )


def _within(source: Iterable[Batch], memory: int, samples: int | None = None) -> Iterable[Batch]:
    """Copies of batches from a source until it ends, enough samples are there, or they take too much memory."""
    held, seen = 0, 0
    for batch in source:
        batch = _mapped(batch)
        held += sum(leaf.nbytes for leaf in leaves(batch))
        if held > memory:
            raise BadData(
                f"the data take more than {memory / 2**30:.3g} GiB (after {seen:,} samples); give samples= to "
                "keep a random subset, or a larger memory="
            )
        yield pytree.tree_map_only(Tensor, lambda leaf: leaf.clone(), batch)
        seen += size_of(batch) or 1
        if samples is not None and seen >= samples:
            return


def _limit(batches: list[Batch], samples: int, seed: int, notes: list[str]) -> list[Batch]:
    """At most ``samples`` samples of the batches, drawn at random where rows can be taken."""
    sizes = [size_of(batch) for batch in batches]
    total = sum(size or 1 for size in sizes)
    if total <= samples:
        return batches
    if any(size is None for size in sizes):
        kept = batches[:samples]
        notes.append(
            f"the first {len(kept)} of {len(batches)} batches (their samples cannot be told apart)"
        )
        return kept
    parts = chosen_rows(total, samples, seed).split([cast("int", size) for size in sizes])
    notes.append(f"a seeded random subset of {samples:,} of {total:,} samples")
    return [
        take(batch, part.nonzero().squeeze(1))
        for batch, part in zip(batches, parts, strict=True)
        if part.any()
    ]


def _choose(total: int, count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(total, generator=generator)[:count].sort().values


def _mapped(batch: Batch) -> Batch:
    """Mappings of other libraries (such as BatchEncoding) as plain dictionaries, tensors detached."""

    def plain(leaf: Any) -> Any:
        if isinstance(leaf, Mapping):
            return _mapped(dict(cast("Mapping[str, Any]", leaf)))
        return leaf.detach() if isinstance(leaf, Tensor) else leaf

    return pytree.tree_map(plain, batch)


def _stackable(column: Sequence[Any]) -> bool:
    first = column[0]
    return all(
        isinstance(item, Tensor) and item.ndim > 0 and item.shape[1:] == first.shape[1:]
        for item in column
    )


def _check(batch: Batch, index: int) -> None:
    size = size_of(batch)
    if size == 0:
        raise BadData(f"batch {index} holds no sample; expected at least one")
    for which, leaf in enumerate(leaves(batch)):
        if not leaf.is_floating_point():
            continue
        bad = ~torch.isfinite(leaf)
        if bad.any():
            place = bad.nonzero()[0].tolist()
            raise NonFinite(
                f"tensor {which} of batch {index} (shape {list(leaf.shape)}) holds {int(bad.sum())} values that are "
                f"not finite, the first ({float(leaf[tuple(place)])}) at {place}; expected finite data: clean it first"
            )
