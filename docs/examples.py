"""A section that a docstring calls "Example:" is read as one of examples: Griffe knows only the plural, and takes the rest for prose."""

import re
from typing import Any

import griffe


class Singular(griffe.Extension):
    """Names the section as Griffe expects it."""

    def on_object(self, *, obj: Any, **_: Any) -> None:
        """Called for every object that Griffe has read."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(
                r"^( *)Example:$", r"\1Examples:", obj.docstring.value, flags=re.MULTILINE
            )
