"""Which studies there are: one file each in ``studies/claims``, or a user's own.

A file is a study by defining ``STUDY``; there is nothing to register.
"""

from dataclasses import replace
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

from unstick.data.own import imported
from unstick.errors import UnstickError
from unstick.studies import claims
from unstick.studies.frame.plan import Study

__all__ = ["UnknownStudy", "all_studies", "find_study"]


class UnknownStudy(UnstickError):
    """No study has this name, or the file defines none."""


@cache
def all_studies() -> tuple[Study, ...]:
    """The studies of the package, by name."""
    found: list[Study] = []
    for module in iter_modules(claims.__path__):
        study: object = getattr(import_module(f"{claims.__name__}.{module.name}"), "STUDY", None)
        if not isinstance(study, Study):
            raise UnknownStudy(f"{claims.__name__}.{module.name} defines no STUDY; expected one")
        found.append(study)
    return tuple(sorted(found, key=lambda study: study.name))


def find_study(name: str) -> Study:
    """A study by its name, or the ``STUDY`` of a user's ``file.py`` (or ``file.py:NAME``).

    Raises:
        UnknownStudy: There is none; says which come close.
    """
    if ".py" in name:
        return _own(name)
    known = {study.name: study for study in all_studies()}
    if name in known:
        return known[name]
    near = get_close_matches(name, known) or list(known)
    raise UnknownStudy(
        f"no study is called {name!r}; {'close to it' if len(near) < len(known) else 'these are'}: {', '.join(near)}; "
        "a study of your own: file.py"
    )


def _own(name: str) -> Study:
    file, _, attribute = name.partition(":")
    path = Path(file)
    if not path.is_file():
        raise UnknownStudy(f"{path} does not exist; expected a Python file that defines STUDY")
    found = getattr(imported(path, error=UnknownStudy), attribute or "STUDY", None)
    if not isinstance(found, Study):
        raise UnknownStudy(f"{path} defines no {attribute or 'STUDY'}; expected an unstick Study")
    return replace(found, place=f"{path}{f':{attribute}' if attribute else ''}")
