"""Finished arms on disk: written at once, read after any interruption, never mixed with others.

Answers: what was measured already, under exactly this code and these settings?
Does not answer: what it means.

One file a study, JSON lines: the header says which study, code and settings; each further line is one arm on one seed.
A line that a kill has torn is dropped. Lines are flushed to the disk before the next arm counts as finished.
An arm that failed is tried again by the same command; what was measured stands before what failed.
"""

import json
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from math import isfinite
from pathlib import Path
from typing import Any, Self, cast

from filelock import FileLock, Timeout

from unstick.errors import UnstickError
from unstick.journal import append_line, object_of
from unstick.studies.frame.digest import code_of, files_of
from unstick.studies.frame.plan import Setting, Study
from unstick.studies.frame.table import Row, Value

__all__ = ["BadStore", "Store", "check_stores", "merge_stores"]

SCHEMA = "unstick-study/1"


class BadStore(UnstickError):
    """A store that cannot be used: of other code or settings, damaged, or not writable."""


class Store:
    """The finished arms of one study.

    Args:
        path: The file.
        header: Which study, code and settings.
        rows: What it holds.
    """

    def __init__(self, path: Path, header: Mapping[str, Any], rows: list[Row]) -> None:
        self.path, self.header, self.rows = path, dict(header), rows

    @classmethod
    def open(cls, folder: Path, study: Study, setting: Setting) -> Self:
        """The store of a study in a folder, made where there is none.

        Raises:
            BadStore: It is of other code or settings, damaged, or cannot be written.
        """
        return cls._at(_path(folder, study), _header(study, setting))

    @classmethod
    @contextmanager
    def opened(cls, folder: Path, study: Study, setting: Setting) -> Generator[Self]:
        """The same, kept from other runs until the block ends.

        Raises:
            BadStore: As ``open``, or another run is writing it.
        """
        with _locked(_path(folder, study)):
            yield cls.open(folder, study, setting)

    @classmethod
    def there(cls, path: Path, header: Mapping[str, Any]) -> Self | None:
        """The store of this header at this path; None where there is none yet.

        Raises:
            BadStore: It is of other code or settings, or damaged.
            OSError: It cannot be read.
        """
        if not path.exists() or _torn(path, header):
            return None
        store = cls.read(path)
        store._check_same(header)
        return store

    def check(self, study: Study, setting: Setting) -> None:
        """Refuse to go on from arms of other code or settings.

        Raises:
            BadStore: They are.
        """
        self._check_same(_header(study, setting))

    @classmethod
    def _at(cls, path: Path, header: Mapping[str, Any]) -> Self:
        try:
            store = cls.there(path, header)
            if store is not None:
                store._mend()
                return store
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            _append(path, header)
        except OSError as error:
            raise BadStore(f"{path} cannot be written: {error.strerror or error}") from None
        return cls(path, header, [])

    @classmethod
    def beside(cls, source: "Store", folder: Path) -> Self:
        """The store in a folder that takes what another one holds, made where there is none.

        Raises:
            BadStore: It is of other code or settings, damaged, or cannot be written.
        """
        return cls._at(folder / source.path.name, source.header)

    @classmethod
    def read(cls, path: Path) -> Self:
        """A store as it lies there; a torn last line is left out.

        Raises:
            BadStore: No such file, or not a store.
        """
        try:
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
        except OSError as error:
            raise BadStore(f"{path} cannot be read: {error.strerror or error}") from None
        documents = [_document(line) for line in lines]
        if not documents or documents[0] is None or documents[0].get("schema") != SCHEMA:
            raise BadStore(f"{path} is not a store of a study; expected another file or folder")
        rows: dict[tuple[str, int], Row] = {}
        for number, document in enumerate(documents[1:], start=2):
            row = None if document is None else _row(document)
            if row is not None:
                if _adds(row, rows):
                    rows[row.arm, row.seed] = row
            elif number < len(lines) or lines[-1].endswith("\n"):
                raise BadStore(
                    f"{path} is damaged in line {number}; remove that line, or choose another folder"
                )
        return cls(path, documents[0], list(rows.values()))

    @property
    def setting(self) -> Setting:
        """The settings that it is of."""
        known: dict[str, Any] = dict(self.header["settings"])
        return Setting(full=known.pop("scale") == "full", **known)

    def add(self, row: Row) -> None:
        """Keep one finished arm; it is on the disk when this returns.

        Raises:
            BadStore: The disk takes no more; what it holds stays.
        """
        try:
            _append(self.path, _written(row))
        except OSError as error:
            raise BadStore(
                f"{self.path} takes no more ({error.strerror or error}); {len(self.rows)} finished arms are in it: "
                "make room and run the same command again"
            ) from None
        self.rows.append(row)

    def _check_same(self, asked: Mapping[str, Any]) -> None:
        path = self.path
        match _unlike(self.header, asked):
            case None:
                return
            case "study", [(_, old, new)]:
                raise BadStore(f"{path} is of study {old}; expected {new}")
            case "settings", other:
                told = ", ".join(
                    f"{name} was {old!r}, asked is {new!r}" for name, old, new in other
                )
                raise BadStore(
                    f"{path} is of other settings: {told}; expected the same, or another --store"
                )
            case "files", [(name, *_), *_]:
                given = self.header["settings"].get(name)
                raise BadStore(
                    f"{path} was measured with another {name}: the file of {given} has changed since; expected the same: "
                    "choose another --store, or remove it"
                )
            case _:
                raise BadStore(
                    f"{path} was measured by other code (of unstick, the study, or torch); expected the same: "
                    "choose another --store, or remove it"
                )

    def _mend(self) -> None:
        """Cut off a torn last line, so that the next one stands alone."""
        raw = self.path.read_bytes()
        whole = raw[: raw.rfind(b"\n") + 1]
        if len(whole) < len(raw):
            with self.path.open("r+b") as file:
                file.truncate(len(whole))


def check_stores(folder: Path, studies: Iterable[Study], setting: Setting) -> None:
    """Refuse before anything is measured what a run of these studies could not go on from; nothing is written.

    Raises:
        BadStore: A store is of other code or settings, or damaged.
    """
    for study in studies:
        path = _path(folder, study)
        try:
            Store.there(path, _header(study, setting))
        except OSError as error:
            raise BadStore(f"{path} cannot be read: {error.strerror or error}") from None


def merge_stores(sources: Iterable[Path], into: Path) -> tuple[int, int]:
    """Join the stores of several folders, such as of several machines, into another folder.

    Args:
        sources: Folders that hold stores.
        into: A folder; stores in it are added to.

    Returns:
        How many arms were added, and how many were there already: of two measurements of one arm the first is kept,
        and either rather than a failure.

    Raises:
        BadStore: No stores, two of one study that are of other code or settings, or a folder that takes no more.
    """
    folders = list(sources)
    paths = [path for folder in folders for path in sorted(folder.glob("*.jsonl"))]
    if not paths:
        raise BadStore(
            f"no store in {', '.join(map(str, folders))}; expected files such as ravine.jsonl"
        )
    stores = [Store.read(path) for path in paths]
    _check_joined(stores, into)
    added = known = 0
    for source in stores:
        with _locked(into / source.path.name):
            there = Store.beside(source, into)
            have = {(row.arm, row.seed): row for row in there.rows}
            for row in source.rows:
                if _adds(row, have):
                    there.add(row)
                    added += 1
                else:
                    known += 1
    return added, known


def _check_joined(stores: Iterable[Store], into: Path) -> None:
    """Refuse stores of one study that are not of one setting and code, before anything is written."""
    first: dict[str, Store] = {}
    for store in stores:
        there = into / store.path.name
        if store.path.name not in first and there.exists():
            first[store.path.name] = Store.read(there)
        known = first.setdefault(store.path.name, store)
        found = _unlike(known.header, store.header)
        if found is not None:
            kind, other = found
            told = ", ".join(f"{name} {old!r} and {new!r}" for name, old, new in other)
            raise BadStore(
                f"{known.path} and {store.path} cannot be joined, their {kind} differ: {told}; expected stores of one command, "
                "such as of its --part 1/2 and --part 2/2; nothing was written"
            )


@contextmanager
def _locked(path: Path) -> Generator[None]:
    """Keep other runs from writing a store meanwhile; the lock is gone with the process, however it ends.

    Raises:
        BadStore: Another run is writing it, or its folder cannot be made.
    """
    lock = FileLock(path.with_name(f".{path.name}.lock"), blocking=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise BadStore(
            f"{path} is being written by another run; wait for it, or choose another --store"
        ) from None
    except NotImplementedError:  # a file system without locks
        pass
    except OSError as error:
        raise BadStore(f"{path} cannot be written: {error.strerror or error}") from None
    try:
        yield
    finally:
        lock.release()


def _path(folder: Path, study: Study) -> Path:
    return folder / f"{study.name}.jsonl"


def _adds(row: Row, known: Mapping[tuple[str, int], Row]) -> bool:
    """Whether a row says more than what is known of its arm: the first measurement does, and a failure only before it."""
    there = known.get((row.arm, row.seed))
    return there is None or (bool(there.failed) and not row.failed)


def _unlike(
    there: Mapping[str, Any], asked: Mapping[str, Any]
) -> tuple[str, list[tuple[str, Any, Any]]] | None:
    """In what two headers differ first: study, settings, files or code, each with what is there and what is asked."""
    for kind in ("study", "settings", "files", "code"):
        old, new = there.get(kind, {}), asked.get(kind, {})
        if not isinstance(new, dict):
            old, new = {kind: old}, {kind: new}
        names = [name for name in {**new, **old} if old.get(name) != new.get(name)]
        other = [(name, old.get(name), new.get(name)) for name in names]
        if other:
            return kind, other
    return None


def _header(study: Study, setting: Setting) -> dict[str, Any]:
    header = {
        "schema": SCHEMA,
        "study": study.name,
        "code": code_of(study),
        "settings": setting.written(),
    }
    return (
        header
        | ({"place": study.place} if study.place else {})
        | ({"files": files} if (files := files_of(setting)) else {})
    )


def _torn(path: Path, header: Mapping[str, Any]) -> bool:
    """Whether a kill or a full disk left less than the header."""
    return json.dumps(header, ensure_ascii=False).encode().startswith(path.read_bytes())


def _append(path: Path, document: Mapping[str, Any]) -> None:
    append_line(path, json.dumps(document, ensure_ascii=False, allow_nan=False))


def _document(line: str) -> dict[str, Any] | None:
    """What a whole line holds; None of one that a kill tore."""
    return object_of(line) if line.endswith("\n") else None


def _written(row: Row) -> dict[str, Any]:
    return {
        "arm": row.arm,
        "seed": row.seed,
        "values": {name: _plain(value) for name, value in row.values.items()},
        "seconds": row.seconds,
        "failed": row.failed,
    }


def _plain(value: Value) -> Any:
    if isinstance(value, float) and not isfinite(value):
        return {"float": str(value)}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


def _value(value: Any) -> Value:
    if isinstance(value, dict):
        return float(cast("dict[str, str]", value)["float"])
    if isinstance(value, list):
        return tuple(cast("float", _value(item)) for item in cast("list[Any]", value))
    return value


def _row(document: Mapping[str, Any]) -> Row | None:
    """The finished arm of a line; None where it is none."""
    try:
        return Row(
            arm=document["arm"],
            seed=document["seed"],
            values={name: _value(value) for name, value in document["values"].items()},
            seconds=document["seconds"],
            failed=document["failed"],
        )
    except (KeyError, AttributeError):
        return None
