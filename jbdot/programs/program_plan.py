"""`plan_program`: the sharding of every argument and result of a whole program, so that a call takes the least time.

Bytes, memory and times are estimates (`layout_cost`); `ProgramPlan.compile_for` asks the real compiler.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, cast

import jax
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from jbdot.core.errors import BadType, BadValue, Refusal, kind_text
from jbdot.core.text import bytes_text
from jbdot.devices.links import Links
from jbdot.hardware import Hardware, known, of_topology
from jbdot.many_devices import partition_spec
from jbdot.many_devices.block import Sharding
from jbdot.one_device import jax_internals
from jbdot.programs import program_plan_report
from jbdot.programs.communication import communication
from jbdot.programs.communication_report import CommunicationReport
from jbdot.programs.constraining import placed
from jbdot.programs.layout_cost import Costs
from jbdot.programs.layout_search import Candidate, LayoutSearch
from jbdot.programs.program_decision import ProgramDecision, Traced, parameters_of, roles_of
from jbdot.programs.witness import Between, tell, witnessed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TOLD: Final = 50  # layouts between two lines of progress
_WORDS: Final = 300  # letters of the compiler's that are told


class Refused(Refusal, RuntimeError):
    """A program that the compiler does not take."""

    kind = RuntimeError


@dataclasses.dataclass(frozen=True, repr=False)
class ProgramPlan(ProgramDecision):
    """Where every array of a program is kept: a table to print, shardings to give, and the program so cut.

    Figures are of one device, and estimates: bytes and memory of the jaxpr, times from published figures.

    What was decided, and its figures, are the attributes of `ProgramDecision`.
    """

    def __call__(self, function: Callable[..., Any], **options: Any) -> Any:
        """Returns `jax.jit` of the program with its arguments, its results and all between where they are planned.

        Args:
            function: The one that was planned.
            **options: Of `jax.jit`, such as `donate_argnums=plan.state`.

        Raises:
            ValueError: The plan is for an abstract mesh, the program is not one of arrays alone, or, where it is
                called, it is another function.
        """
        if isinstance(self.mesh, AbstractMesh):
            raise BadValue(
                "a plan that is run must be for a mesh of devices",
                f"it is for {self.mesh}",
                "Plan for a mesh that jax.make_mesh gives, or ask plan.compile_for",
            ).told("ProgramPlan", self.name)
        if not self.traced.is_of_arrays:
            raise BadValue(
                "a plan that is run must be of a function of arrays, in pytrees, that changes none in place",
                f"{self.name} is given, or gives, what is no array, or puts arrays into its arguments",
                "Put its arguments where the plan has them, and call it as it is: of Flax's NNX model = "
                "jax.device_put(model, plan.in_shardings[0]), of Equinox equinox.filter_shard(model, "
                "plan.in_shardings[0])",
            ).told("ProgramPlan", self.name)
        shardings = {"in_shardings": self.in_shardings, "out_shardings": self.out_shardings}
        return jax.jit(self._constrained(function), **{**shardings, **options})

    def _constrained(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def planned(*args: Any) -> Any:
            traced = Traced.of(function, args, self.mesh)
            if self._labels(traced) != self._labels(self.traced):
                raise BadValue(
                    "a plan must be given the function that it is of, and arguments as they were planned",
                    f"{getattr(function, '__name__', function)} has arrays with other labels than {self.name}",
                    "Plan it anew with jbdot.plan_program",
                ).told("ProgramPlan", self.name)
            made = jax_internals.run_jaxpr(self._told(traced), *jax.tree.leaves(args))
            return jax.tree.unflatten(traced.out, made)

        return planned

    def _told(self, traced: Traced) -> Any:
        """Returns the program's jaxpr, in which arrays are told where they are, and where they go for a dot."""
        if self.between == "free":
            return traced.jaxpr
        layout, costs = self.winner.layout, self.costs(traced)
        if self.between == "moved":
            return placed(traced.jaxpr, traced.flow, costs, layout, self.mesh)
        told = traced.flow.carried | costs.unclear(layout)
        return placed(traced.jaxpr, traced.flow, costs, layout, self.mesh, moved=False, told=told)

    def costs(self, traced: Traced) -> Costs:
        """Returns what estimates layouts of the program, with what is fixed."""
        pinned = {at: self.fixed[name] for at, name in enumerate(traced.names) if name in self.fixed}
        return Costs(traced.flow, dict(self.mesh.shape), self.links, traced.tied, pinned)

    @staticmethod
    def _labels(traced: Traced) -> list[Any]:
        return [(array.shape, traced.flow.labels(array)) for array in (*traced.flow.arguments, *traced.flow.results)]

    def _named(self, sharding: Sharding) -> NamedSharding:
        return NamedSharding(self.mesh, partition_spec.written(sharding))

    @property
    def specs(self) -> Any:
        """Returns the PartitionSpec of each argument, as a tuple of pytrees: print it for code to paste.

        In the place of what is no array stands None.
        """
        return self.traced.arguments(map(partition_spec.written, self.arrays.values()))

    @property
    def in_shardings(self) -> Any:
        """Returns the same as NamedShardings: `jax.jit(step, in_shardings=plan.in_shardings)`, or `jax.device_put`."""
        return self.traced.arguments(map(self._named, self.arrays.values()))

    @property
    def out_shardings(self) -> Any:
        """Returns the NamedSharding of each result; state comes back as it went in."""
        found = self._results
        return jax.tree.unflatten(self.traced.out, [None if at is None else found[at] for at in self.traced.made])

    @property
    def _results(self) -> list[NamedSharding]:
        """Returns the sharding of each result, also of those that are put into arguments."""
        given = list(self.arrays.values())
        return [
            self._named(self.sharding(array) if at is None else given[at])
            for array, at in zip(self.traced.flow.results, self.traced.tied, strict=True)
        ]

    def compile_for(self, topology: str, timeout_s: float = 300.0) -> CommunicationReport:
        """Compiles the planned program, with its state donated, for devices that need not be here: see `communication`.

        Args:
            topology: Such as "v5e:4x4".
            timeout_s: The longest that the compiler may take.

        Raises:
            ValueError, ImportError, RuntimeError: As of `communication`.
        """
        traced, told = self.traced, self._told(self.traced)
        shapes = (
            jax.ShapeDtypeStruct(aval.shape, aval.dtype, sharding=self._named(sharding))
            for aval, sharding in zip(traced.jaxpr.in_avals, self.arrays.values(), strict=True)
        )
        state = [at for at, owner in enumerate(traced.owners) if owner in self.state]
        run = jax.jit(
            functools.partial(jax_internals.run_jaxpr, told), out_shardings=self._results, donate_argnums=state
        )

        @functools.wraps(self.function)
        def step(*args: Any) -> Any:
            return run(*jax.tree.leaves(args))

        return communication(
            step, *traced.arguments(shapes), topology=topology, hardware=self.hardware, timeout_s=timeout_s
        )

    def __str__(self) -> str:
        return program_plan_report.text(self)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return program_plan_report.page(self)

    @property
    def why(self) -> str:
        """Says why the winner is taken."""
        return program_plan_report.why(self)

    def plot(self) -> "Figure":
        """Draws where arguments are cut, and of each candidate the time, what it sends, and the memory.

        Needs matplotlib: the extra `plot`.

        Raises:
            ImportError: matplotlib is not installed.
        """
        from jbdot.programs.program_plan_figure import draw

        return draw(self)


def plan_program(
    function: Callable[..., Any],
    mesh: Any,
    *args: Any,
    memory: float | None = None,
    fixed: Mapping[str, Any] | None = None,
    hardware: Hardware | str | None = None,
    topology: str | None = None,
) -> ProgramPlan:
    """Chooses the sharding of every argument and result of a whole program, such as a training step.

    The program is traced, and neither compiled nor run. Axes of its arrays that must be cut alike are one label; a
    layout says which labels each mesh axis cuts. Layouts are searched for the least estimated time within the memory of
    a device; data parallel, FSDP, tensor and sequence parallel, and their mixtures, are among them.

    Args:
        function: Of arrays, in pytrees: parameters, the optimizer's state, a batch. Also a step of Flax's NNX or of
            Equinox, as it is written: models and optimizers are pytrees, and what is put into them in place is a
            result.
        mesh: A `jax.sharding.Mesh` or `AbstractMesh`, or the sizes of its axes by name: {"data": 16, "model": 16}. Its
            axes are taken as Auto.
        *args: Arrays or `jax.ShapeDtypeStruct`s; what shardings they have is not looked at. All else is part of the
            program, as are Python's numbers where there is such, for `jax.jit` takes neither then.
        memory: Bytes that each device may need; by default all that it has.
        fixed: What is decided already: for a parameter of the function, by its name, a PartitionSpec, or the name of
            the mesh axis that cuts the first axis of its arrays, or a pytree of these, which may stand for all below
            it; None leaves an array to the plan. {"batch": "data"}, or {"params": {"embedding": P("model")}}.
        hardware: Figures of the devices, or a name that `hardware.known` knows, such as "v5e"; by default those of the
            topology, or those that are published for the mesh's devices.
        topology: Such as "v5e:4x4": the few layouts that are estimated best are compiled for it, and the best of them
            by the compiler is taken, with or without what XLA is told of the arrays between. No TPU is needed
            (`jbdot[tpu]` is); each takes seconds to minutes. Without it nothing is compiled.

    Returns:
        A `ProgramPlan`: print it; give its `in_shardings` and `out_shardings` to `jax.jit`, or call it with the
        function. An interrupt (Ctrl-C) ends the search, or the compiling, with the best layout so far.

    Raises:
        TypeError: The function is none, or the mesh is none.
        ValueError: No layout fits into the memory, no mesh axis divides anything, the program calls the host, no
            figures are known for the devices, fixed names what is not there, or the mesh does not fit the topology.
        ImportError: The compiler for the topology is not installed.
        RuntimeError: The compiler refuses every layout.

    Differs: `plan_sharding` plans one contraction, whose operands are where they are.

    Example:
        >>> import jax
        >>> import jbdot
        >>> from jax import numpy as jnp
        >>> def step(w, x, y):
        ...     loss = lambda w: jnp.mean((jnp.tanh(x @ w["in"]) @ w["out"] - y) ** 2)
        ...     return jax.tree.map(lambda w, g: w - 0.1 * g, w, jax.grad(loss)(w))
        >>> array = lambda *shape: jax.ShapeDtypeStruct(shape, "float32")
        >>> w, x = {"in": array(512, 2048), "out": array(2048, 512)}, array(65536, 512)
        >>> plan = jbdot.plan_program(step, {"data": 8, "model": 2}, w, x, x, hardware="v5e")
        >>> plan.winner.name
        'FSDP over data model'
    """
    call = getattr(function, "__name__", type(function).__name__)
    try:
        plan = _plan(function, mesh, args, memory, fixed or {}, hardware or (topology and of_topology(topology)))
        return plan if topology is None else _witnessed(plan, topology)
    except Refusal as refusal:
        raise refusal.told("plan_program", call) from None


def _plan(
    function: Callable[..., Any],
    mesh: Any,
    args: tuple[Any, ...],
    memory: float | None,
    fixed: Mapping[str, Any],
    hardware: Hardware | str | None,
) -> ProgramPlan:
    if not callable(function):
        raise BadType(
            "the program must be a function", type(function).__name__, "Give the step, and then its arguments"
        )
    figures: Any = known(hardware) if isinstance(hardware, str) else hardware
    if not isinstance(figures, Hardware | None):
        raise BadType("hardware must be a jbdot.hardware.Hardware, or a name", f"got a {type(figures).__name__}")
    on = _mesh(mesh)
    sizes = dict(on.shape)
    links = Links.of(sizes if isinstance(on, AbstractMesh) and figures else on, figures)
    traced = Traced.of(function, args, on)
    pinned = _pinned(fixed, parameters_of(function, len(args)), args, traced, sizes)
    limit = links.hardware.memory_bytes if memory is None else float(memory)
    _check_divides(traced, sizes)
    costs = Costs(traced.flow, sizes, links, traced.tied, pinned)
    search = LayoutSearch(costs, *roles_of(traced), limit, _progress(costs))
    winner = search.run()
    tell("")
    if search.score(winner.layout)[0] > 0:
        raise _too_large(winner, limit, links.hardware.name)
    candidates = sorted(search.named, key=lambda each: search.score(each.layout))
    same = [each.name for each in candidates if each.cost == winner.cost]
    if same:
        winner = dataclasses.replace(winner, name=same[0])
    return ProgramPlan(
        name=getattr(function, "__name__", type(function).__name__),
        mesh=on,
        links=links,
        memory=limit,
        winner=dataclasses.replace(winner, layout=search.plain(winner.layout)),
        candidates=tuple(_told_apart(candidates)),
        looked=len(costs),
        fixed={traced.names[at]: cut for at, cut in pinned.items()},
        function=function,
        traced=traced,
        between="moved" if costs.unclear(winner.layout) else "unclear",
    )


def _witnessed(plan: ProgramPlan, topology: str) -> ProgramPlan:
    """Takes the best of the few layouts that are estimated best, by the compiler."""

    def compiled(candidate: Candidate, between: Between) -> CommunicationReport:
        return dataclasses.replace(plan, winner=candidate, between=between).compile_for(topology)

    costs = plan.costs(plan.traced)

    def is_clear(candidate: Candidate) -> bool:
        return not costs.unclear(candidate.layout)

    few = [plan.winner, *(each for each in plan.candidates if each.cost != plan.winner.cost)]
    found = witnessed(few, plan.memory, is_clear, compiled, topology)
    best = found[0]
    if best.report is None:
        raise Refused(
            "the compiler must take one of the layouts that are estimated best",
            f"it refuses {len(found)}, and says of {best.candidate.name}: {best.refused[:_WORDS]}",
            "Plan for less memory with memory=, so that layouts are chosen which leave more of it free",
        )
    return dataclasses.replace(plan, winner=best.candidate, between=best.between, topology=topology, witnesses=found)


def _told_apart(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Leaves out what costs as much as another, as where two mesh axes change places."""
    found: dict[Any, Candidate] = {}
    for each in candidates:
        cost = each.cost
        found.setdefault((round(cost.total_us, 3), cost.bytes_sent, cost.memory_bytes), each)
    return list(found.values())


# What a program is given.


def _mesh(mesh: Any) -> Any:
    """Reads a mesh, and makes its axes Auto."""
    if isinstance(mesh, Mesh):
        return Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,) * len(mesh.axis_names))
    if isinstance(mesh, AbstractMesh):
        mesh = dict(mesh.shape)
    if isinstance(mesh, Mapping) and all(
        isinstance(name, str) and isinstance(size, int) and size > 0 for name, size in mesh.items()
    ):
        sizes = cast("Mapping[str, int]", mesh)
        return AbstractMesh(tuple(sizes.values()), tuple(sizes), axis_types=(AxisType.Auto,) * len(sizes))
    raise BadType(
        "mesh must be a jax.sharding.Mesh or AbstractMesh, or sizes of axes by name",
        kind_text(mesh) if not isinstance(mesh, Mapping) else repr(mesh),
        'Such as jax.make_mesh((4, 2), ("data", "model")), or {"data": 16, "model": 16} with hardware="v5e"',
    )


def _check_divides(traced: Traced, sizes: Mapping[str, int]) -> None:
    axes = {axis: size for axis, size in sizes.items() if size > 1}
    flow = traced.flow
    cut = {
        size
        for array in flow.arguments
        for size, label in zip(array.shape, flow.labels(array), strict=True)
        if label is not None
    }
    if axes and not any(size % parts == 0 for size in cut for parts in axes.values()):
        raise BadValue(
            "a mesh axis must divide an axis of an argument",
            f"{partition_spec.listed(axes)}, and the axes have sizes {', '.join(map(str, sorted(cut))) or 'of 1'}",
            "Pad the arrays, or make the mesh of other sizes",
        )


def _pinned(
    fixed: Mapping[str, Any], parameters: Sequence[str], args: tuple[Any, ...], traced: Traced, sizes: Mapping[str, int]
) -> dict[int, Sharding]:
    """Reads what is fixed: the sharding of arguments, by number."""
    found: dict[int, Sharding] = {}
    numbers = {place: at for at, place in enumerate(traced.places)}
    first = {name: jax.tree.structure(args[:at]).num_leaves for at, name in enumerate(parameters)}
    for name, given in fixed.items():
        if name not in first:
            raise BadValue("fixed must name parameters of the function", f"{name!r} is none of {', '.join(parameters)}")
        try:
            specs = jax.tree.broadcast(given, args[parameters.index(name)], is_leaf=_is_spec)
        except ValueError as error:
            raise BadValue(
                "what is fixed must have the structure of the argument, or stand for all below it",
                f"{name}: {' '.join(str(error).split())[:200]}",
            ) from None
        for place, spec in enumerate(jax.tree.leaves(specs, is_leaf=_is_spec), first[name]):
            at = numbers.get(place)
            if spec is None or at is None or not traced.flow.arguments[at].shape:
                continue
            array = traced.flow.arguments[at]
            spec = PartitionSpec(spec) if isinstance(spec, str) else spec
            sharding = partition_spec.read(spec, len(array.shape), sizes, traced.names[at])
            partition_spec.divided(sharding, array.shape, sizes, traced.names[at])
            found[at] = partition_spec.cutting(sharding, sizes)
    return found


def _is_spec(x: Any) -> bool:
    return x is None or isinstance(x, str | PartitionSpec)


# What is said while it is searched, and where nothing fits.


def _progress(costs: Costs) -> Callable[[Candidate], None]:
    """Tells on a terminal how far the search is."""
    told = [0]

    def say(best: Candidate) -> None:
        if len(costs) >= told[0] + _TOLD:
            told[0] = len(costs)
            tell(f"{len(costs)} layouts, best {best.cost.total_us / 1e3:,.2f} ms")

    return say


def _too_large(best: Candidate, limit: float, name: str) -> BadValue:
    cost = best.cost
    parts = {"arguments": cost.argument_bytes, "results": cost.output_bytes, "temporaries": cost.temp_bytes}
    most = max(parts, key=lambda part: parts[part])
    cure = {
        "arguments": "More devices, or a state of fewer bytes, such as of bfloat16, frees most of it",
        "results": "Return less, such as the loss alone, or results of fewer bytes",
        "temporaries": "Recompute with jax.checkpoint, take fewer samples at a time, or use more devices",
    }[most]
    sizes = ", ".join(f"{part} {bytes_text(size)}" for part, size in parts.items() if size)
    return BadValue(
        "a layout must fit into the memory of a device",
        f"the one that needs least, {best.name}, needs an estimated {bytes_text(cost.memory_bytes)} of "
        f"{bytes_text(int(limit))} of {name}, {bytes_text(round(cost.memory_bytes - limit))} too much: {sizes}",
        cure,
    )
