"""What every result has in common: a headline and facts, told alike in a terminal and in a notebook."""

from abc import ABC, abstractmethod
from html import escape as quote
from textwrap import wrap

__all__ = ["Fact", "Record", "number"]

Fact = tuple[str, str]
"""A label and the value as a reader should see it."""

LONG = 1e6  # from which a number is written as a power of ten


def number(value: float | None, digits: int = 4) -> str:
    """A number as people read it: four significant digits, a true minus sign, ``not measured`` for None.

    Example:
        >>> number(0.000012), number(15_318.0), number(-2.5e9)
        ('1.2e−5', '15,320', '−2.5e9')
    """
    if value is None:
        return "not measured"
    text = f"{value + 0.0:,.{digits}g}"  # + 0.0: no minus zero
    if "e+" in text and abs(float(text)) < LONG:
        text = f"{float(text):,.0f}"
    return text.replace("e-0", "e-").replace("e+0", "e").replace("e+", "e").replace("-", "−")


class Record(ABC):
    """A frozen result that can tell itself: the verdict first, then the proof, then numbers."""

    __slots__ = ()

    @abstractmethod
    def headline(self) -> str:
        """The answer in one sentence."""

    @abstractmethod
    def facts(self) -> list[Fact]:
        """What it rests on, most important first."""

    def __str__(self) -> str:
        """The headline and the facts, wrapped to 100 columns."""
        facts = self.facts()
        width = max((len(label) for label, _ in facts), default=0)
        lines = [self.headline()]
        for label, value in facts:
            first, *rest = wrap(value, 96 - width) or [""]
            lines.append(f"  {label:<{width}}  {first}")
            lines.extend(f"  {'':<{width}}  {more}" for more in rest)
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """The same story as a table, for notebooks."""
        rows = "".join(
            f"<tr><th style='text-align:left;vertical-align:top'>{quote(label)}</th>"
            f"<td style='text-align:left'>{quote(value)}</td></tr>"
            for label, value in self.facts()
        )
        return f"<p><b>{quote(self.headline())}</b></p><table>{rows}</table>"
