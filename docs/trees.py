"""Runs Python on numbers that are not known: each comparison becomes a question, and every answer is followed.

What comes out is a tree, with a question such as "is x2 equal to y1" at each fork. It holds for all numbers, as
whatever is done with an unknown either follows from the answers on the way, or is asked, or is an error.
"""

import functools
import itertools
import json
import operator
from collections.abc import Callable, Sequence
from typing import Any


class NotTabulated(RuntimeError):
    """A planner does with an unknown what no question stands for."""


class Run:
    """One run of a planner: the answers that it is told, the questions that it asks, and what follows from both."""

    def __init__(self, told: tuple[int, ...]) -> None:
        self.told = told
        self.asked: list[tuple[tuple[Any, ...], Sequence[Any]]] = []
        self.same: dict[Any, Any] = {}  # of sizes: one that it is equal to
        self.different: list[tuple[Any, Any]] = []
        self.left: dict[str, Sequence[Any]] = {}  # of axes and flags: the values that they may still have

    def ask(self, question: tuple[Any, ...], options: Sequence[Any]) -> Any:
        """Asks what does not follow: the answer that the run is told, or the first."""
        depth = len(self.asked)
        self.asked.append((question, options))
        return options[self.told[depth] if depth < len(self.told) else 0]

    def equal(self, size: Any, other: Any) -> bool:
        """Whether two sizes are equal, each an int or the name of one that is not known."""
        one, two = self._found(size), self._found(other)
        if one == two:
            return True
        apart = ({self._found(left), self._found(right)} for left, right in self.different)
        if (isinstance(one, int) and isinstance(two, int)) or {one, two} in apart:
            return False
        if self.ask(("=", size, other), (True, False)):
            self.same[two if isinstance(one, int) else one] = one if isinstance(one, int) else two
            return True
        self.different.append((one, two))
        return False

    def _found(self, size: Any) -> Any:
        while size in self.same:
            size = self.same[size]
        return size

    def value(self, name: str) -> Any:
        """The value of an axis or a flag."""
        values = self.left[name]
        self.left[name] = (self.ask(("#", name, values), values),) if len(values) > 1 else values
        return self.left[name][0]

    def compare(self, name: str, sign: str, bound: int) -> bool:
        """Whether an axis is below ("<") a number, or equal ("==") to it."""
        test = operator.lt if sign == "<" else operator.eq
        parts = {answer: tuple(v for v in self.left[name] if test(v, bound) == answer) for answer in (True, False)}
        options = [answer for answer, part in parts.items() if part]
        answer = self.ask((sign, name, bound), options) if len(options) > 1 else options[0]
        self.left[name] = parts[answer]
        return answer


class Unknown:
    """What a planner is given where a call has a number; written, it is a place to fill in.

    No subclass of int: whatever needs its value has to ask for it here, C code too.
    """

    def __init__(self, run: Run, name: str) -> None:
        self.run, self.name = run, name

    def __repr__(self) -> str:
        return f"{{{self.name}}}"

    def __format__(self, _: str) -> str:
        return repr(self)


class Size(Unknown):
    """The length of an axis, or a product, or a sum of such: can be compared for equality, multiplied, and added."""

    def __eq__(self, other: Any) -> bool:
        if not isinstance(other, (int, Size)):
            raise NotTabulated(f"{self!r} is compared with {other!r}")
        return self.run.equal(self.name, other.name if isinstance(other, Size) else operator.index(other))

    def __mul__(self, other: Any) -> "Size":
        return Size(self.run, _product(self.name, _written(other)))

    def __add__(self, other: Any) -> "Size":
        return Size(self.run, f"{self.name}+{_written(other)}")

    def __radd__(self, other: Any) -> "Size":
        return Size(self.run, f"{_written(other)}+{self.name}")

    __rmul__ = __mul__


@functools.cache
def _product(*names: str) -> str:
    if "+" in "".join(names):
        raise NotTabulated(f"a product with a sum: {names}")
    factors = [factor for name in names for factor in name.split("*") if factor != "1"]
    return "*".join(sorted(factors))


def _written(size: Any) -> str:
    return size.name if isinstance(size, Size) else str(operator.index(size))


class Axis(Unknown):
    """An int among the arguments."""

    __class__ = property(lambda _: int)  # for isinstance alone: to C code it is an object with __index__

    def __index__(self) -> int:
        return self.run.value(self.name)

    __int__ = __index__

    def __hash__(self) -> int:
        return hash(operator.index(self))

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, int) and self.run.compare(self.name, "==", operator.index(other))

    def __lt__(self, other: Any) -> bool:
        return self.run.compare(self.name, "<", operator.index(other))

    def __le__(self, other: Any) -> bool:
        return self.run.compare(self.name, "<", operator.index(other) + 1)

    def __gt__(self, other: Any) -> bool:
        return not self <= other

    def __ge__(self, other: Any) -> bool:
        return not self < other

    def __add__(self, other: int) -> int:
        return operator.index(self) + other

    def __mod__(self, other: int) -> int:
        return operator.index(self) % other


Axis.__name__ = "int"


class Flag(Unknown):
    """A True or False among the arguments."""

    def __bool__(self) -> bool:
        return self.run.value(self.name)


def _forbidden(name: str) -> Callable[..., Any]:
    def method(self: Unknown, *_: Any) -> Any:
        raise NotTabulated(f"{name} of {type(self).__name__} {self!r}")

    return method


SPECIAL = "lt le gt ge eq hash bool index int float abs neg pos invert add sub mul matmul truediv floordiv mod divmod "
SPECIAL += "pow radd rsub rmul rmatmul rtruediv rfloordiv rmod rdivmod rpow lshift rshift and or xor rand ror rxor"
for _kind, _name in itertools.product((Size, Axis, Flag), SPECIAL.split()):
    if vars(_kind).get(f"__{_name}__") is None:
        setattr(_kind, f"__{_name}__", _forbidden(f"__{_name}__"))


class Trees:
    """Trees that share what they have in common: a node for each question and each end, once."""

    def __init__(self) -> None:
        self.nodes: dict[str, int] = {}

    def node(self, content: Any) -> int:
        """The number of a node."""
        return self.nodes.setdefault(json.dumps(content, separators=(",", ":")), len(self.nodes))

    def grow(self, ending: Callable[[Run], Any], told: tuple[int, ...] = ()) -> int:
        """The tree of all runs that begin with the answers told; `ending` runs a planner once."""
        run = Run(told)
        tree = self.node(ending(run))
        for depth in reversed(range(len(told), len(run.asked))):
            question, options = run.asked[depth]
            before = told + (0,) * (depth - len(told))
            rest = [self.grow(ending, (*before, i)) for i in range(1, len(options))]
            if any(other != tree for other in rest):
                tree = self.node([*question, tree, *rest])
        return tree
