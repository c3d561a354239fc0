"""A jitted step on a mesh whose arguments and results stay where they are: what is between is placed anew.

Where plain jit has arrays between follows from its own propagation. Here it is a layout of the whole program
(`layout_search`), with arguments and results pinned. What the compiler makes of both decides.
"""

import contextlib
import dataclasses
import functools
import itertools
import math
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import jax
from jax.core import Tracer
from jax.sharding import AbstractMesh, AxisType, NamedSharding

from jbdot.core.errors import BadValue, Refusal
from jbdot.core.text import bytes_text, paragraph, table
from jbdot.devices.links import Links
from jbdot.hardware import Hardware
from jbdot.many_devices import partition_spec
from jbdot.many_devices.block import Sharding
from jbdot.one_device import jax_internals
from jbdot.programs.communication import report_of
from jbdot.programs.communication_report import CommunicationReport
from jbdot.programs.constraining import placed
from jbdot.programs.layout_cost import Costs
from jbdot.programs.layout_search import LayoutSearch
from jbdot.programs.program import Program, is_array, said, sharding_of
from jbdot.programs.program_decision import Traced, roles_of

TRIES: Final = 2  # planned programs that are compiled beside the plain one
_MORE_FLOPS: Final = 1.02
_MORE_ROOM: Final = 1.10
_WORTH: Final = 0.99  # of bytes or of time: what is not better by a hundredth is left alone
_NUMBERS: Final = ((bool, int, float, complex), (float, complex), ())  # Python's, which are arrays unless static
_MOST: Final = 8  # plans of one function: what changes more often, as a static counter, is not planned each time


@dataclasses.dataclass(frozen=True)
class Trial:
    """A planned program that was compiled.

    Attributes:
        name: What its layout is called.
        report: What the compiler made of it; None where it refused.
        against: What speaks against it; empty where nothing does.
    """

    name: str
    report: CommunicationReport | None
    against: str


@dataclasses.dataclass(frozen=True, repr=False)
class StepPlan:
    """A jitted step as it is, and as it is planned: print it for what each sends, needs and is estimated to take.

    Call it as the step. Where it is left alone, that is the step itself.

    Attributes:
        before: The step as plain jit has it.
        after: The step as it runs: `before` where it is left alone.
        trials: A `Trial` for each planned program that was compiled.
        why: Says why it is left alone, or what is gained.
        seconds: What planning took, with `1 + len(trials)` compilations.
        mesh: What it is planned for.
    """

    before: CommunicationReport
    after: CommunicationReport
    trials: tuple[Trial, ...]
    why: str
    seconds: float
    mesh: Any = dataclasses.field(repr=False)
    _run: Callable[..., Any] = dataclasses.field(repr=False)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the step.

        Raises:
            ValueError: The plan is for an abstract mesh.
        """
        if isinstance(self.mesh, AbstractMesh):
            raise BadValue(
                "a plan that is run must be for a mesh of devices",
                f"it is for {self.mesh}",
                "Plan with arrays, or shapes, on a mesh that jax.make_mesh gives",
            ).told("StepPlan", self.before.function)
        return self._run(*args, **kwargs)

    @property
    def is_planned(self) -> bool:
        """Says whether the step runs otherwise than plain jit would run it."""
        return self.after is not self.before

    def __str__(self) -> str:
        count = 1 + len(self.trials)
        cost = f"{self.seconds:.1f} s, in which {count} program{'s were' if count > 1 else ' was'} compiled"
        parts = [paragraph(f"{self.before.subject}: {self.why}")]
        parts += self.before.compare(self.after).tables if self.is_planned else []
        return "\n\n".join([*parts, *self._tried(), paragraph(f"planned in {cost}; nothing was run")])

    __repr__ = __str__

    def _tried(self) -> Iterator[str]:
        rows: list[tuple[str, ...]] = [("planned", "sent", "temporaries", "found")]
        for trial in self.trials:
            found = trial.report
            figures = (bytes_text(found.sent), bytes_text(found.temp_bytes or 0)) if found else ("-", "-")
            taken = "taken" if found is self.after else "good, and another is better"
            rows.append((trial.name, *figures, trial.against or taken))
        if self.trials:
            yield table(rows)


class StepPlans:
    """The plans of a jitted function: one for each structure, shapes, dtypes and shardings of its arguments.

    Args:
        function: What `jax.jit` gave.
        tries: How many planned programs are compiled beside the plain one; with 0 nothing is planned.
    """

    def __init__(self, function: Callable[..., Any], tries: int) -> None:
        self._function, self._tries = function, tries
        self._numbers = _NUMBERS[0]  # those that the function takes as arrays
        self._found: dict[Any, Callable[..., Any]] = {}

    def of(self, args: Any, kwargs: Any) -> Callable[..., Any]:
        """Returns what a call is to run: a `StepPlan`, or the function itself where there is nothing to plan."""
        if self._tries < 1 or jax.device_count() < 2:
            return self._function
        key = self._key(args, kwargs)
        if key is None:
            return self._function
        if key not in self._found:
            if len(self._found) == _MOST:
                return self._function
            decided = self._decided(args, kwargs)
            key = self._key(args, kwargs)  # it may have turned out that numbers are static
            self._found[key] = decided
        return self._found[key]

    def plan(self, args: Any, kwargs: Any, topology: str | None, hardware: Hardware | None) -> StepPlan:
        """Plans a call; what is planned for the devices here is what a call runs from then on."""
        plan = self._call(args, kwargs).planned(self._tries, topology, hardware)
        key = self._key(args, kwargs)
        if topology is None and key is not None and not isinstance(plan.before.mesh, AbstractMesh):
            self._found[key] = plan
        return plan

    def _call(self, args: Any, kwargs: Any) -> "_Call":
        """Traces a call, and finds out which of its numbers are static."""
        program = _program(self._function, args, kwargs)  # what is wrong but for that is raised here
        for numbers in _NUMBERS[_NUMBERS.index(self._numbers) : -1]:
            with contextlib.suppress(TypeError, ValueError):
                call = _Call(self._function, args, kwargs, numbers, program)
                self._numbers = numbers
                return call
        self._numbers = ()
        return _Call(self._function, args, kwargs, (), program)

    def _key(self, args: Any, kwargs: Any) -> Any:
        """Returns what a plan holds for; None where something within is traced, or cannot be told apart."""
        leaves, structure = jax.tree.flatten((args, kwargs))
        if any(isinstance(x, (Tracer, *jax_internals.references())) for x in leaves):
            return None
        found = (
            (x.shape, x.dtype, getattr(x, "sharding", None))
            if is_array(x)
            else type(x)
            if isinstance(x, self._numbers)
            else (type(x), x)
            for x in leaves
        )
        key = structure, *found
        try:
            hash(key)
        except TypeError:
            return None
        return key

    def _decided(self, args: Any, kwargs: Any) -> Callable[..., Any]:
        try:
            call = self._call(args, kwargs)  # what is wrong with the function is raised here, as it raises it
        except Refusal:
            return self._function  # on no mesh
        if call.left:
            return self._function
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Some donated buffers")  # said again when it is compiled to run
                plan = call.planned(self._tries)
        except Refusal:
            return self._function  # on devices that no figures are known of
        except Exception as error:
            warnings.warn(
                f"jbdot.optimize leaves {getattr(self._function, '__name__', 'a step')} as it is: planning it "
                f"failed with {type(error).__name__}: {error}",
                RuntimeWarning,
                stacklevel=4,
            )
            return self._function
        if sys.stderr.isatty():
            print(f"jbdot: {plan.before.function} in {plan.seconds:.0f} s: {plan.why}", file=sys.stderr, flush=True)
        return plan if plan.is_planned else self._function


class _Call:
    """A call of a jitted function, as a function of its arrays alone."""

    def __init__(
        self, function: Callable[..., Any], args: Any, kwargs: Any, numbers: tuple[type, ...], program: Program
    ) -> None:
        self.function, self.args, self.kwargs, self._program = function, args, kwargs, program
        self._leaves, self._structure = jax.tree.flatten((args, kwargs))
        self._places = [at for at, x in enumerate(self._leaves) if is_array(x) or isinstance(x, numbers)]
        self.left = ""  # why it is left alone, where that is known before it is compiled
        if any(kind != AxisType.Auto for kind in self._program.mesh.axis_types):
            self.left = "left alone: the axes of its mesh are not Auto, so its own types say where every array is"
            return
        if self._program.mesh.size == 1:
            self.left = "left alone: its mesh has one device"
            return
        try:
            self._traced = Traced.of(self, self._arrays, self._program.mesh)
        except Refusal as refusal:
            self.left = f"left alone: {refusal}"

    @property
    def _arrays(self) -> list[Any]:
        return [self._leaves[at] for at in self._places]

    def __call__(self, *arrays: Any) -> Any:
        """Calls the function with other arrays."""
        leaves = list(self._leaves)
        for at, array in zip(self._places, arrays, strict=True):
            leaves[at] = array
        args, kwargs = jax.tree.unflatten(self._structure, leaves)
        return self.function(*args, **kwargs)

    # Planning.

    def planned(self, tries: int, topology: str | None = None, hardware: Hardware | None = None) -> StepPlan:
        """Plans the step.

        Args:
            tries: How many planned programs are compiled beside the plain one.
            topology: What is compiled for; by default the devices of the mesh.
            hardware: Whose figures times are from; by default those of what is compiled for.

        Raises:
            ValueError, TypeError, ImportError, RuntimeError: As of `communication`.
        """
        start = time.perf_counter()
        before = report_of(self._program, topology, hardware)
        trials: list[Trial] = []
        good: list[tuple[CommunicationReport, Callable[..., Any]]] = []
        left = self.left or ("" if before.rows else "left alone: it sends nothing")
        left = left or ("" if tries else "left alone: with tries=0 nothing else is compiled")
        if not left:
            for name, run in itertools.islice(self._candidates(before, topology), tries):
                trial = _tried(name, _program(run, self.args, self.kwargs), before, topology)
                trials.append(trial)
                if trial.report and not trial.against:
                    good.append((trial.report, run))
        if not good:
            good.append((before, self.function))
        after, run = min(good, key=lambda one: (one[0].step_us, one[0].sent))
        why = _gain(before, after) if after is not before else left or _why(trials)
        return StepPlan(before, after, tuple(trials), why, time.perf_counter() - start, self._program.mesh, run)

    def _candidates(
        self, before: CommunicationReport, topology: str | None
    ) -> Iterator[tuple[str, Callable[..., Any]]]:
        """Gives planned steps, the best by estimates first, which are within what plain jit sends and computes."""
        mesh, traced = self._program.mesh, self._traced
        arrays = (
            jax.ShapeDtypeStruct(aval.shape, aval.dtype, sharding=sharding_of(x))
            for x, aval in zip(self._arrays, traced.jaxpr.in_avals, strict=True)
        )
        given, out, donated = said(traced.jaxpr, tuple(arrays))
        sizes = dict(mesh.shape)
        out_shardings = [
            sharding or (None if spec is None else NamedSharding(mesh, spec))
            for sharding, spec in zip(out or [None] * len(before.results), before.results, strict=True)
        ]
        pins = {at: _sharding(x.sharding, len(x.shape), sizes) for at, x in enumerate(given)}
        results = {
            at: _sharding(sharding, len(array.shape), sizes)
            for at, (array, sharding) in enumerate(zip(traced.flow.results, out_shardings, strict=True))
            if sharding is not None
        }
        links = Links.of(mesh if topology is None else sizes, before.hardware)
        costs = Costs(traced.flow, sizes, links, traced.tied, pins, results)
        flops = _MORE_FLOPS * before.flops if before.flops else math.inf
        search = LayoutSearch(
            costs, *roles_of(traced), before.hardware.memory_bytes, lambda _: None, flops=flops, sent=before.sent
        )
        search.run()
        ranked = [each for each in search.ranked() if search.score(each.layout)[0] == 0]
        seen: set[str] = set()
        for at in range(0, len(ranked), 2):
            for moved, candidate in itertools.product((True, False), ranked[at : at + 2]):
                jaxpr = placed(traced.jaxpr, traced.flow, costs, candidate.layout, mesh, moved)
                text = str(jaxpr)
                if text not in seen:
                    seen.add(text)
                    yield candidate.name, self._step(jaxpr, traced.out, out_shardings, donated)

    def _step(self, jaxpr: Any, out: Any, out_shardings: Sequence[Any], donated: Sequence[int]) -> Callable[..., Any]:
        """Returns a function of the arguments that runs a jaxpr of the arrays."""

        def step(*arrays: Any) -> Any:
            return jax_internals.run_jaxpr(jaxpr, *arrays)

        step.__name__ = step.__qualname__ = self._program.name
        run = jax.jit(step, out_shardings=list(out_shardings), donate_argnums=tuple(donated), keep_unused=True)
        places = self._places

        @functools.wraps(self.function)
        def planned(*args: Any, **kwargs: Any) -> Any:
            leaves = jax.tree.leaves((args, kwargs))
            return jax.tree.unflatten(out, run(*(leaves[at] for at in places)))

        return planned


def _program(function: Callable[..., Any], args: Any, kwargs: Any) -> Program:
    """Traces a call."""
    if not kwargs:
        return Program.of(function, args)

    def called(args: Any, kwargs: Any) -> Any:
        return function(*args, **kwargs)

    called.__name__ = getattr(function, "__name__", "called")
    return Program.of(called, (args, kwargs))


def _tried(name: str, program: Program, before: CommunicationReport, topology: str | None) -> Trial:
    """Compiles a planned step, and says what speaks against it."""
    try:
        report = report_of(program, topology, before.hardware)
    except RuntimeError as error:
        return Trial(name, None, f"the compiler refuses it: {' '.join(str(error).split())[:200]}")
    return Trial(name, report, _against(report, before))


def _against(after: CommunicationReport, before: CommunicationReport) -> str:
    """Says what is worse than in the plain step, or that nothing is better; empty where it is to be taken."""
    if after.sent > before.sent:
        return "sends more"
    if after.flops and before.flops and after.flops > _MORE_FLOPS * before.flops:
        return f"computes {after.flops / before.flops:.2f} times as much"
    if (after.temp_bytes or 0) > _MORE_ROOM * (before.temp_bytes or 0):
        return "needs more room between"
    if after.estimated_us and before.estimated_us and after.estimated_us > before.estimated_us:
        return f"computes {after.estimated_us / before.estimated_us:.2f} times as long, by the compiler's estimate"
    if after.sent > _WORTH * before.sent and after.step_us > _WORTH * before.step_us:
        return "is no better"
    return "" if after.step_us <= before.step_us else "takes longer"


def _gain(before: CommunicationReport, after: CommunicationReport) -> str:
    return (
        f"arrays between its arguments and results are placed anew, and each device sends {bytes_text(after.sent)} in "
        f"an estimated {after.sending_us:,.0f} us, where plain jit sends {bytes_text(before.sent)} in "
        f"{before.sending_us:,.0f} us"
    )


def _why(trials: Sequence[Trial]) -> str:
    if not trials:
        return "left alone: no layout of what is between is estimated to send less"
    return "left alone: plain jit is as good as what was tried"


def _sharding(sharding: NamedSharding | None, ndim: int, sizes: Mapping[str, int]) -> Sharding:
    """Reads where an array is; one that is nowhere yet is everywhere."""
    if sharding is None:
        return ((),) * ndim
    return partition_spec.cutting(partition_spec.read(sharding.spec, ndim, sizes, ""), sizes)
