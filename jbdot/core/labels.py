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
    """Labels axes of two operands that broadcast as in NumPy: see `broadcast_all`.

    Example:
        >>> broadcast((7, 1, 3), (2, 3))
        (('b', None, 'd'), ('c', 'd'), ('b', 'c', 'd'))
    """
    lhs, rhs, out = broadcast_all((lhs_shape, rhs_shape), pool, operands, first)
    return lhs, rhs, tuple(label for label in out if label is not None)


def broadcast_all(
    shapes: Sequence[Sequence[int]], pool: str, operands: Sequence[str], first: Sequence[int]
) -> list[Labels]:
    """Labels axes that broadcast as in NumPy: aligned at the right; a size 1 that stretches is a unit axis.

    Args:
        shapes: For each operand, sizes of its axes that broadcast.
        pool: Letters to label them with.
        operands: What a message calls the operands.
        first: The axis of each operand that the first size is of.

    Returns:
        Labels of each operand, then of the result.

    Raises:
        ValueError: Two sizes differ and neither is 1.
    """
    out = names(pool, max(map(len, shapes), default=0))
    found: list[list[str | None]] = [list(out[len(out) - len(shape) :]) for shape in shapes]
    for axis in range(-len(out), 0):
        having = [at for at, shape in enumerate(shapes) if len(shape) >= -axis]
        whole = max((at for at in having if shapes[at][axis] != 1), default=-1)
        for at in having if whole >= 0 else ():
            size = shapes[at][axis]
            if size == 1:
                found[at][axis] = None
            elif size != shapes[whole][axis]:
                raise BadValue(
                    "batch axes must have equal sizes, or one of the two must be 1",
                    f"axis {first[at] + len(shapes[at]) + axis} of {operands[at]} has size {size}, "
                    f"axis {first[whole] + len(shapes[whole]) + axis} of {operands[whole]} has size "
                    f"{shapes[whole][axis]}",
                )
    return [*map(tuple, found), out]


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


def read(text: Any, shapes: Sequence[Shape | None] = (), operands: Sequence[str] = ()) -> list[Labels]:
    """Reads the labels of each operand, then of the result, off a string: see `Contraction.parse`.

    Args:
        text: What is read.
        shapes: The operands' shapes, which an ellipsis needs.
        operands: What a message calls the operands; by default as `operand_names` does.

    Raises:
        TypeError: The text is no string.
        ValueError: The text is no contraction, or has not a term for each shape.
    """
    if not isinstance(text, str):
        raise BadType("contraction must be a Contraction or its string", f"got a {type(text).__name__}")
    inputs, arrow, result = text.partition("->")
    texts = inputs.split(",")
    if shapes and len(texts) != len(shapes):
        remedy = "Write 'b m k, b k n -> b m n'"
        if re.fullmatch(r"[\w.]+", text):
            remedy += "; a function is given as it is, such as jbdot.batch_dot, and not as a string"
        raise BadValue(
            "a contraction must have a term for each operand",
            f"{text!r} has {len(texts)}, the operands are {len(shapes)}",
            remedy,
        )
    words = re.search(r"[\w)]\s+[\w(]", text) is not None
    terms = [_tokens(term, words) for term in texts]
    if arrow:
        out = _tokens(result, words)
    elif words:  # only einsum, whose labels are letters, says what the result is without an arrow
        raise BadValue(
            "a contraction of labels with spaces between must say its result",
            f"{text!r} has no '->'",
            "Write 'b m k, b k n -> b m n'",
        )
    else:
        tokens = list(itertools.chain.from_iterable(terms))
        once = sorted({token for token in tokens if tokens.count(token) == 1} - {"...", UNIT})
        out = ["...", *once] if "..." in tokens else once
    if any("..." in side for side in (*terms, out)):
        *terms, out = _spread(text, terms, out, shapes, operands or operand_names(len(terms)))
    return [tuple(None if token == UNIT else token for token in side) for side in (*terms, out)]


def operand_names(count: int) -> tuple[str, ...]:
    """Says what messages call operands: lhs and rhs where they are two, else each by its place, from 0.

    Example:
        >>> operand_names(2), operand_names(3)
        (('lhs', 'rhs'), ('operand 0', 'operand 1', 'operand 2'))
    """
    return ("lhs", "rhs") if count == 2 else tuple(f"operand {at}" for at in range(count))


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
    text: str, terms: list[list[str]], out: list[str], shapes: Sequence[Shape | None], operands: Sequence[str]
) -> list[list[str]]:
    """Puts labels where an ellipsis stands, by the operands' shapes."""
    if len(shapes) != len(terms) or any(shape is None for shape in shapes):
        raise BadValue(
            "an ellipsis needs the operands' shapes", repr(text), "Hand them to parse, or the string to contract"
        )
    spans: list[Shape] = []
    starts: list[int] = []
    for name, tokens, shape in zip(operands, terms, shapes, strict=True):
        assert shape is not None
        count = len(shape) - len(tokens) + 1 if "..." in tokens else 0
        if count < 0:
            raise BadValue(
                "an operand must have an axis for each of its labels",
                f"{name} has rank {len(shape)} for '{' '.join(tokens)}'",
            )
        start = tokens.index("...") if count else 0
        spans.append(shape[start : start + count])
        starts.append(start)
    pool = "".join(letter for letter in SPARE if not any(letter in term for term in terms))
    *labels, both = broadcast_all(spans, pool, operands, starts)
    if both and "..." not in out:
        raise BadValue(
            "the axes of an ellipsis must be in the result",
            f"{text!r} would sum {len(both)} unnamed axes",
            "Write '...' after '->' too",
        )
    return [*map(_filled, terms, labels), _filled(out, both)]


def _filled(tokens: list[str], labels: Labels) -> list[str]:
    spelt = [UNIT if label is None else label for label in labels]
    return list(itertools.chain.from_iterable(spelt if token == "..." else [token] for token in tokens))
