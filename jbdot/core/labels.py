"""Labels of axes: the letters that they get, how they broadcast, how a string of them is read."""

import itertools
import re
from collections.abc import Iterable, Sequence
from typing import Any, Final

from jbdot.core.errors import BadType, BadValue

Labels = tuple[str | None, ...]
Shape = tuple[int, ...]
Axes = tuple[int, ...]

UNIT: Final = "1"  # how a unit axis, the label None, is written in a string
_WORD: Final = r"[A-Za-z_]\w*"

# The letters that front doors and dimension numbers give to axes, by role: disjoint pools.
BATCH: Final = "bcdefgh"
CONTRACTING: Final = "krst"
LHS_FREE: Final = "mijlopq"
RHS_FREE: Final = "nuvwxyz"
# Those of the formula of dot: c[a,b,c,i,j,k] = sum_r w[a,b,c,r] x[i,j,r,k].
DOT_LHS: Final = "abcdefgh"
DOT_RHS: Final = "ijklmnop"
SPARE: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZaijlmnopquvwxyzbcdefghkrst"


def names(pool: str, count: int) -> tuple[str, ...]:
    """Takes `count` labels of a pool; past its end come b1, b2, ...

    Example:
        >>> names("mn", 4)
        ('m', 'n', 'm1', 'm2')
    """
    return tuple(pool[:count]) + tuple(f"{pool[0]}{i}" for i in range(1, count - len(pool) + 1))


def broadcast(
    lhs_shape: Sequence[int],
    rhs_shape: Sequence[int],
    pool: str = BATCH,
    operands: tuple[str, str] = ("lhs", "rhs"),
    first: tuple[int, int] = (0, 0),
) -> tuple[Labels, Labels, tuple[str, ...]]:
    """Labels axes that broadcast as in NumPy: aligned at the right; a size 1 that stretches is a unit axis.

    Args:
        lhs_shape: Sizes of the axes of lhs that broadcast.
        rhs_shape: Sizes of those of rhs.
        pool: Letters to label them with.
        operands: What a message calls the two.
        first: The axis of each operand that the first size is of.

    Returns:
        Labels of lhs, of rhs and of the result.

    Raises:
        ValueError: Two sizes differ and neither is 1.

    Example:
        >>> broadcast((7, 1, 3), (2, 3))
        (('b', None, 'd'), ('c', 'd'), ('b', 'c', 'd'))
    """
    out = names(pool, max(len(lhs_shape), len(rhs_shape)))
    lhs: list[str | None] = list(out[len(out) - len(lhs_shape) :])
    rhs: list[str | None] = list(out[len(out) - len(rhs_shape) :])
    for axis in range(-min(len(lhs), len(rhs)), 0):
        left, right = lhs_shape[axis], rhs_shape[axis]
        if left == right:
            continue
        if left != 1 and right != 1:
            raise BadValue(
                "batch axes must have equal sizes, or one of the two must be 1",
                f"axis {first[0] + len(lhs) + axis} of {operands[0]} has size {left}, "
                f"axis {first[1] + len(rhs) + axis} of {operands[1]} has size {right}",
            )
        (lhs if left == 1 else rhs)[axis] = None
    return tuple(lhs), tuple(rhs), out


def checked(name: str, labels: Any) -> Labels:
    """Takes labels as they come: a sequence of words, None for unit axes.

    Raises:
        TypeError: They are no sequence, or one is no string.
        ValueError: One is no word.
    """
    if isinstance(labels, str) or not isinstance(labels, Iterable):
        raise BadType("labels must come as a tuple", f"{name} is {labels!r}", "Contraction.parse reads a string")
    found: list[str | None] = []
    for label in labels:
        if label is not None and not isinstance(label, str):
            raise BadType("a label must be a string, or None for a unit axis", f"{name} has {label!r}")
        if label is not None and not re.fullmatch(_WORD, label):
            raise BadValue("a label must be a word", f"{name} has {label!r}")
        found.append(label)
    return tuple(found)


def read(
    text: Any, lhs_shape: Shape | None, rhs_shape: Shape | None, operands: tuple[str, str] = ("lhs", "rhs")
) -> tuple[Labels, Labels, Labels]:
    """Reads the labels of lhs, rhs and the result off a string, for operands of these names: see `Contraction.parse`.

    Raises:
        TypeError: The text is no string.
        ValueError: The text is no contraction of two operands.
    """
    if not isinstance(text, str):
        raise BadType("contraction must be a Contraction or its string", f"got a {type(text).__name__}")
    inputs, arrow, result = text.partition("->")
    terms = inputs.split(",")
    if len(terms) != 2:
        remedy = "Write 'b m k, b k n -> b m n'"
        if re.fullmatch(r"[\w.]+", text):
            remedy += "; a function is given as it is, such as jbdot.batch_dot, and not as a string"
        raise BadValue("a contraction must have two operands", f"{text!r} has {len(terms)}", remedy)
    words = re.search(r"[\w)]\s+[\w(]", text) is not None
    lhs, rhs = (_tokens(term, words) for term in terms)
    if arrow:
        out = _tokens(result, words)
    elif words:  # only einsum, whose labels are letters, says what the result is without an arrow
        raise BadValue(
            "a contraction of labels with spaces between must say its result",
            f"{text!r} has no '->'",
            "Write 'b m k, b k n -> b m n'",
        )
    else:
        both = [*lhs, *rhs]
        once = sorted({token for token in both if both.count(token) == 1} - {"...", UNIT})
        out = ["...", *once] if "..." in both else once
    if "..." in (*lhs, *rhs, *out):
        lhs, rhs, out = _spread(text, lhs, rhs, out, lhs_shape, rhs_shape, operands)
    sides = (tuple(None if token == UNIT else token for token in side) for side in (lhs, rhs, out))
    return next(sides), next(sides), next(sides)


def is_letter(label: str) -> bool:
    """Says whether a label is one of the letters that an einsum string may have."""
    return re.fullmatch("[A-Za-z]", label) is not None


def written(*sides: Labels) -> list[str]:
    """Writes the labels of each side so that `read` reads them back.

    Spaces make labels words. Where no side has two of them, no space says so, and a word is put in parentheses.

    Example:
        >>> written(("row", "k"), ("k",), ("row",)), written(("row",), ("row",), ())
        (['row k', 'k', 'row'], ['(row)', '(row)', ''])
    """
    apart = all(len(side) < 2 for side in sides)

    def spelt(label: str | None) -> str:
        return UNIT if label is None else f"({label})" if apart and not is_letter(label) else label

    return [" ".join(map(spelt, side)) for side in sides]


def _tokens(term: str, words: bool) -> list[str]:
    """Cuts one operand's term into labels, UNIT and "..."."""
    label = _WORD if words else "[A-Za-z]"
    found: list[str] = re.findall(rf"\.\.\.|{label}|\({_WORD}\)|{UNIT}", term)
    if "".join(found) != re.sub(r"\s", "", term):
        raise BadValue(
            "labels must be letters, or words with spaces between",
            f"{term.strip()!r}",
            "Write 'b m k, b k n -> b m n' or 'bmk,bkn->bmn'",
        )
    if found.count("...") > 1:
        raise BadValue("an operand must have one ellipsis at most", f"{term.strip()!r}")
    return [token.strip("()") for token in found]


def _spread(
    text: str,
    lhs: list[str],
    rhs: list[str],
    out: list[str],
    lhs_shape: Shape | None,
    rhs_shape: Shape | None,
    operands: tuple[str, str],
) -> tuple[list[str], list[str], list[str]]:
    """Puts labels where an ellipsis stands, by the operands' shapes."""
    if lhs_shape is None or rhs_shape is None:
        raise BadValue(
            "an ellipsis needs the operands' shapes", repr(text), "Hand them to parse, or the string to contract"
        )
    spans: list[Shape] = []
    starts: list[int] = []
    for name, tokens, shape in zip(operands, (lhs, rhs), (lhs_shape, rhs_shape), strict=True):
        count = len(shape) - len(tokens) + 1 if "..." in tokens else 0
        if count < 0:
            raise BadValue(
                "an operand must have an axis for each of its labels",
                f"{name} has rank {len(shape)} for '{' '.join(tokens)}'",
            )
        start = tokens.index("...") if count else 0
        spans.append(shape[start : start + count])
        starts.append(start)
    pool = "".join(letter for letter in SPARE if letter not in (*lhs, *rhs))
    left, right, both = broadcast(spans[0], spans[1], pool, operands, (starts[0], starts[1]))
    if both and "..." not in out:
        raise BadValue(
            "the axes of an ellipsis must be in the result",
            f"{text!r} would sum {len(both)} unnamed axes",
            "Write '...' after '->' too",
        )
    return _filled(lhs, left), _filled(rhs, right), _filled(out, both)


def _filled(tokens: list[str], labels: Labels) -> list[str]:
    spelt = [UNIT if label is None else label for label in labels]
    return list(itertools.chain.from_iterable(spelt if token == "..." else [token] for token in tokens))
