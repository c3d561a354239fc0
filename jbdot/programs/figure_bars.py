"""What the pictures of whole programs have in common: colours of collectives, units, bars, and the memory there is."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from jbdot.core.colours import COLOURS
from jbdot.core.text import bytes_text, rounded_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DARK, GREY, PALE = "#222222", "#777777", "#F1F1F1"
COMPUTING: Final = COLOURS["unit"]
_KINDS: Final = {  # as Okabe and Ito, for the colour-blind too
    "all-gather": COLOURS["batch"],
    "reduce-scatter": COLOURS["lhs free"],
    "all-reduce": COLOURS["contracting"],
    "all-to-all": COLOURS["summed"],
}
_PERMUTE: Final = COLOURS["rhs free"]  # and whatever else goes from one device to another
_MEMORY: Final = {"arguments": "#4C72B0", "results": "#8172B2", "temporaries": "#A9BCDD"}
_BYTES: Final = {"GB": 1e9, "MB": 1e6, "kB": 1e3, "B": 1.0}
_TIMES: Final = {"s": 1e6, "ms": 1e3, "us": 1.0}
_NEAR: Final = 2.5  # a limit is drawn that is at most so many times the longest bar


def blank(function: str, width: float, height: float) -> "Figure":
    """Makes a figure, or says that matplotlib is missing.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError(
            f"jbdot.{function}(...).plot: matplotlib draws the picture, and is not installed. pip install matplotlib"
        ) from None
    return Figure(figsize=(width, height), layout="constrained")


def colour(collective: str) -> str:
    """Returns the colour of a kind of collective."""
    return _KINDS.get(collective.removeprefix("ragged-"), _PERMUTE)


def in_order(kinds: Mapping[str, float]) -> list[tuple[str, float]]:
    """Returns what is sent by kind, in the order of the colours, so that every bar has the same order."""
    places = [*_KINDS]
    return sorted(kinds.items(), key=lambda pair: (places.index(pair[0]) if pair[0] in places else 9, pair[0]))


def time_unit(most_us: float) -> tuple[str, float]:
    """Returns the largest unit of which the longest time is 1 or more, and its microseconds.

    Example:
        >>> time_unit(2500.0), time_unit(0.0)
        (('ms', 1000.0), ('us', 1.0))
    """
    return _unit(most_us, _TIMES)


def byte_unit(most: float) -> tuple[str, float]:
    """Returns the largest unit of which the most bytes are 1 or more, and its size."""
    return _unit(most, _BYTES)


def _unit(most: float, units: Mapping[str, float]) -> tuple[str, float]:
    return next(((name, size) for name, size in units.items() if most >= size), [*units.items()][-1])


def time_text(us: float) -> str:
    """Writes a time.

    Example:
        >>> time_text(1_412_000), time_text(96_300), time_text(128_000)
        ('1.41 s', '96.3 ms', '128 ms')
    """
    unit, size = time_unit(us)
    return f"{rounded_text(us / size)} {unit}"


def bar(axes: Any, place: float, parts: Mapping[str, tuple[float, str]], height: float = 0.62, **options: Any) -> float:
    """Draws parts one behind another, each a length and a colour; returns where the last ends."""
    left = 0.0
    for label, (length, shade) in parts.items():
        axes.barh(place, length, height, left, color=shade, label=label, **options)
        left += length
    return left


def said(axes: Any, end: float, place: float, text: str, **options: Any) -> None:
    """Writes beside the end of a bar."""
    box = {"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.8}
    axes.annotate(text, (end, place), (5, 0), textcoords="offset points", va="center", fontsize=9, bbox=box, **options)


def memory_parts(sizes: Mapping[str, float], unit: float) -> dict[str, tuple[float, str]]:
    """Returns the parts of a bar of memory, without those that would not be seen."""
    seen = 1e-3 * sum(sizes.values())
    return {name: (size / unit, _MEMORY[name]) for name, size in sizes.items() if size > seen}


def limited(axes: Any, most: float, limit: float, unit: float) -> None:
    """Marks the memory that there is, if it is anywhere near the bars; else says below them how much it is."""
    if limit == float("inf"):
        return
    text = f"at most {bytes_text(round(limit))}"
    if limit > _NEAR * max(most, 1):
        axes.set_xlabel(f"{axes.get_xlabel()}\n{text}", fontsize=9)
        return
    axes.axvline(limit / unit, color=DARK, linestyle="--", linewidth=1.2)
    axes.annotate(
        text,
        (limit / unit, 1),
        (-3, 2),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        ha="center",
        va="bottom",
        fontsize=9,
    )
    axes.set_xlim(0, max(axes.get_xlim()[1], 1.12 * limit / unit))


def tidy(axes: Any) -> None:
    """Takes away the frame, and leaves pale lines of a grid behind the bars."""
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(GREY)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", color=GREY, labelsize=9)
    axes.grid(axis="x", color="#E4E4E4", linewidth=0.8)
    axes.set_axisbelow(True)


def legend(figure: "Figure", columns: int = 9) -> None:
    """Writes each label once, below all."""
    found: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    if found:
        figure.legend(
            [*found.values()],
            [*found],
            loc="outside lower center",
            ncols=min(columns, len(found)),
            fontsize=9,
            frameon=False,
            columnspacing=1.2,
            handlelength=1.4,
        )
