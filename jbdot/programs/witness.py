"""The compiler as the last witness: the layouts that are estimated best, compiled, and the best of them by its text."""

import dataclasses
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, Literal

from jbdot.core.text import bytes_text, rounded_text
from jbdot.programs.communication_report import CommunicationReport
from jbdot.programs.layout_search import Candidate

Between = Literal["moved", "unclear", "free"]
BETWEEN: Final[dict[Between, str]] = {  # what XLA is told of
    "moved": "all arrays",
    "unclear": "unclear arrays",
    "free": "arguments, results",
}
_FEW: Final = 3  # layouts that are compiled
_FAR: Final = 1.5  # times the least estimate: what is estimated to take longer is not compiled
_OVER: Final = 1.25  # times the memory: so much may an estimate be wrong

Compile = Callable[[Candidate, Between], CommunicationReport]


@dataclasses.dataclass(frozen=True)
class Witnessed:
    """A layout that was compiled.

    Attributes:
        candidate: The layout, and its estimates.
        between: What XLA is told of the arrays between arguments and results: one of `BETWEEN`.
        report: What the compiler made of it; None if it refused.
        refused: Its words then.
    """

    candidate: Candidate
    between: Between
    report: CommunicationReport | None = dataclasses.field(repr=False)
    refused: str = ""

    def score(self, limit: float) -> tuple[float, float]:
        """Returns what is to be least: the bytes that a device is short of, and then the time."""
        if self.report is None:
            return float("inf"), float("inf")
        return max(0.0, self.report.memory_bytes - limit), self.report.step_us

    @property
    def cells(self) -> tuple[str, str, str]:
        """Writes its time, what it sends and its memory, by the compiler."""
        if self.report is None:
            return "refused", "", ""
        report = self.report
        times = (rounded_text(us / 1e3) for us in (report.step_us, report.compute_us or 0.0, report.sending_us))
        total, compute, sending = times
        return f"{total} = {compute} + {sending}", bytes_text(report.sent), bytes_text(report.memory_bytes)


def witnessed(
    candidates: Sequence[Candidate],
    limit: float,
    is_clear: Callable[[Candidate], bool],
    compiled: Compile,
    topology: str,
) -> tuple[Witnessed, ...]:
    """Compiles the layouts that are estimated best; the best by the compiler is first.

    The first is compiled with all that XLA can be told of the arrays between, with a part of it, and with nothing; the
    next few in the way that was best for it, and the best of all in the other ways too. A layout of which nothing is
    unclear is compiled in one way. An interrupt ends it with what there is by then.

    Args:
        candidates: The best by estimates first.
        limit: Bytes that a device may need.
        is_clear: Says whether propagation has each array where a layout has it.
        compiled: Compiles one.
        topology: What for: for the progress.
    """
    found: list[Witnessed] = []

    def ask(asked: Iterable[tuple[Candidate, Between]]) -> None:
        for candidate, between in asked:
            tell(f"compiling for {topology}: {len(found) + 1}, {candidate.name}, {BETWEEN[between]}")
            try:
                found.append(Witnessed(candidate, between, compiled(candidate, between)))
            except RuntimeError as error:
                found.append(Witnessed(candidate, between, None, str(error)))

    few = list(_few(candidates, limit, is_clear))
    try:
        ask((few[0], between) for between in (("unclear",) if is_clear(few[0]) else BETWEEN))
        best = min(found, key=lambda each: each.score(limit)).between if len(found) > 1 else "moved"
        ask((candidate, "unclear" if is_clear(candidate) else best) for candidate in few[1:])
        winner = min(found, key=lambda each: each.score(limit)).candidate
        if winner is not few[0] and not is_clear(winner):
            ask((winner, between) for between in BETWEEN if between != best)
    except KeyboardInterrupt:
        if not found:
            raise
    tell("")
    return tuple(sorted(found, key=lambda each: each.score(limit)))


def _few(candidates: Sequence[Candidate], limit: float, is_clear: Callable[[Candidate], bool]) -> Iterator[Candidate]:
    """Takes the first, and those of the next that may be better: one of which all is clear, if there is one.

    That comes out as it is estimated; others may be moved about more.
    """
    yield candidates[0]
    near = [
        each
        for each in candidates[1:]
        if each.cost.memory_bytes <= _OVER * limit and each.cost.total_us <= _FAR * candidates[0].cost.total_us
    ]
    clear = next(filter(is_clear, (candidates[0], *near)), None)
    if clear in near[_FEW - 1 :]:
        near = [*near[: _FEW - 2], clear]
    yield from near[: _FEW - 1]


def tell(words: str) -> None:
    """Tells on a terminal how far planning is; with no words takes away what stands there."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{words and 'plan_program: '}{words}")
        sys.stderr.flush()
