"""One formatter for every message.

A rule is broken deep in the planning, where only the axes are known; the public edge knows
which function was called with what. So a `Refusal` carries the cause up, and the edge
raises the plain builtin that `told` makes of it:

    <function>: <rule that broke>: <axis and size on each side>; <both operands>, <arguments>. <what to do>
"""

from collections.abc import Iterable
from typing import Any, ClassVar, Final

_LONG: Final = 80  # letters of a list in a message


class Refusal(Exception):
    """A rule that a call breaks.

    Args:
        rule: What must hold, as a clause: "the contracted axes must have equal sizes".
        facts: Which axes and sizes break it, by operand.
        remedy: What to do about it, as a sentence.
    """

    kind: ClassVar[type[Exception]] = ValueError

    def __init__(self, rule: str, facts: str = "", remedy: str = "") -> None:
        self.rule, self.facts, self.remedy = rule, facts, remedy
        super().__init__(_sentences(f"{rule}: {facts}" if facts else rule, remedy))

    def told(self, function: str, call: str, remedies: Iterable[str] = ()) -> Exception:
        """Makes the exception that the user sees: a plain builtin with the whole story.

        Args:
            function: The public name, such as "keras.batch_dot".
            call: The operands and arguments as given.
            remedies: What else to do about it, as sentences.
        """
        broken = f"{function}: {self.rule}" + (f": {self.facts}" if self.facts else "")
        return self.kind(_sentences("; ".join(filter(None, (broken, call))), self.remedy, *remedies))


class BadValue(Refusal, ValueError):
    """A size, rank or value that does not fit."""

    kind = ValueError


class BadType(Refusal, TypeError):
    """An argument or a dtype of the wrong type."""

    kind = TypeError


class BadIndex(Refusal, IndexError):
    """An axis that the operand has not."""

    kind = IndexError


class BadKey(Refusal, KeyError):
    """An axis that a dict has not."""

    kind = KeyError


def array_text(name: str, shape: Iterable[Any], dtype: Any, sparse: bool = False) -> str:
    """Writes an array as `x float32[2,3]`, or without a name.

    Example:
        >>> array_text("x", (2, 3), "float32")
        'x float32[2,3]'
    """
    return f"{name} {dtype}[{','.join(map(str, shape))}]".lstrip() + (" (sparse)" if sparse else "")


def value_text(value: Any) -> str:
    """Writes an argument as Python does; a list that is long or holds arrays, by its length.

    Example:
        >>> value_text([[0, 1], [1, 0]]), value_text([0.0] * 1000)
        ('[[0, 1], [1, 0]]', '<list of 1000>')
    """
    if not isinstance(value, (list, tuple, dict)):
        return repr(value)
    holds_arrays = any(getattr(item, "shape", ()) for item in value)
    return f"<{kind_text(value)}>" if holds_arrays or len(repr(value)) > _LONG else repr(value)


def kind_text(value: Any) -> str:
    """Names the type of a value, and its length where it has one: "list of 3"."""
    return type(value).__name__ + (f" of {len(value)}" if hasattr(value, "__len__") else "")


def _sentences(*parts: str) -> str:
    return " ".join(part.rstrip(".") + "." for part in parts if part)
