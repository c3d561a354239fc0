"""Whole functions with their dots planned: the same numbers, the same function, no dot without a mark."""

import functools
import inspect
import re

import jax
import numpy as np
import optax
import pytest
from jax import export, lax
from jax import numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.custom_partitioning import custom_partitioning
from jax.extend import core
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jbdot.one_device import mark
from jbdot.programs.optimize import Optimized, optimize

RNG = np.random.default_rng(0)


def array(*shape, dtype=jnp.float32):
    return jnp.asarray(RNG.integers(-2, 3, shape), dtype)


X, Y = array(4, 4), array(4, 4)
MESH = jax.make_mesh((2,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))


def counts(f, *args):
    """How many marked dots and how many others a function leaves, outside of kernels."""
    return counts_in(jax.make_jaxpr(f)(*args))


def counts_in(jaxpr):
    total = np.zeros(2, int)
    for equation in jaxpr.eqns:
        if equation.primitive is lax.dot_general_p:
            total[int(mark.of(equation.ctx.xla_metadata or {}) == "direct")] += 1
        if equation.primitive.name != "pallas_call":
            total += sum((counts_in(inner) for inner in core.jaxprs_in_params(equation.params)), np.zeros(2, int))
    return total


def assert_same(got, want):
    jax.tree.map(np.testing.assert_array_equal, got, want)
    assert jax.tree.structure(got) == jax.tree.structure(want)
    assert [jnp.result_type(x) for x in jax.tree.leaves(got)] == [jnp.result_type(x) for x in jax.tree.leaves(want)]


@jax.custom_jvp
def with_jvp(x, y):
    return x @ y


@with_jvp.defjvp
def _(primals, tangents):
    (x, y), (dx, dy) = primals, tangents
    return with_jvp(x, y), dx @ y + x @ dy


@jax.custom_vjp
def with_vjp(x, y):
    return x @ y


# Not the real gradient, so that only the rule can have given it.
with_vjp.defvjp(lambda x, y: (x @ y @ y, (x, y)), lambda kept, g: (2 * g @ kept[1].T, kept[0].T @ g))


with_remat = jax.custom_vjp(lambda x, y: x @ y)
with_remat.defvjp(lambda x, y: (x @ y, (x, y)), lambda kept, g: (g @ kept[1].T, kept[0].T @ g), optimize_remat=True)


@jax.custom_batching.custom_vmap
def with_vmap(x, y):
    return x @ y


@with_vmap.def_vmap
def _(size, batched, x, y):
    assert (size, batched) == (2, [True, False])
    return 2 * jnp.einsum("bmk,kn->bmn", x, y), True


def with_scan(x, y):
    return lax.scan(lambda carry, scale: (carry @ y, carry * scale), x, jnp.arange(2.0))


def with_while(x, y):
    return lax.while_loop(lambda carry: carry[0] < 2, lambda carry: (carry[0] + 1, carry[1] @ y), (0, x))[1]


def with_cond(x, y):
    return lax.cond(x[0, 0] > -9, lambda: x @ y, lambda: y @ x)


def with_shard_map(x, y):
    def local(x, y):
        return lax.psum(x @ y, "i")

    return jax.shard_map(local, mesh=MESH, in_specs=(P(None, "i"), P("i")), out_specs=P())(x, y)


def with_policy(x, y):
    keep_dots = jax.checkpoint_policies.dots_saveable
    return jax.checkpoint(lambda x, y: jnp.square(jnp.square(x @ y) @ y), policy=keep_dots)(x, y)


def nested(x, y):
    @jax.checkpoint
    def body(carry, scale):
        return lax.switch(1, [with_cond, with_vjp, with_jvp], carry, y) * scale, carry @ x

    return jax.jit(lambda x: lax.scan(body, with_jvp(x, y), jnp.arange(1.0, 3.0)))(x)


CASES = {
    "plain": lambda x, y: x @ y,
    "einsum": lambda x, y: jnp.einsum("ij,kj,kl", x, y, x),
    "jit": jax.jit(lambda x, y: jax.jit(jnp.matmul)(x, y) @ x),
    "scan": with_scan,
    "while": with_while,
    "cond": with_cond,
    "custom_jvp": with_jvp,
    "custom_vjp": with_vjp,
    "custom_vmap": with_vmap,
    "checkpoint": jax.checkpoint(lambda x, y: jnp.square(x @ y) @ y),
    "checkpoint, policy": with_policy,
    "custom_vjp, checkpoint": jax.checkpoint(lambda x, y: jnp.square(with_remat(x, y))),
    "shard_map": with_shard_map,
    "nested": nested,
    "vmap": jax.vmap(lambda row, y: row @ y, (0, None)),
    "grad": jax.grad(lambda x, y: jnp.sum(with_vjp(x, y) @ with_jvp(y, x))),
}
every_case = pytest.mark.parametrize("name", CASES)
in_reverse = pytest.mark.parametrize("name", [name for name in CASES if name not in ("while", "custom_vmap")])
# JAX takes a custom_vjp in reverse only.
forward = [name for name in CASES if "custom_v" not in name and name not in ("nested", "grad")]


def summed(f):
    return lambda x, y: sum(jnp.sum(out) for out in jax.tree.leaves(f(x, y)))


@every_case
def test_same_numbers_and_no_dot_of_lax_left(name):
    f = CASES[name]
    assert_same(optimize(f)(X, Y), f(X, Y))
    found, of_lax = counts(f, X, Y)
    assert found == 0
    assert of_lax > 0
    assert [*counts(optimize(f), X, Y)] == [of_lax, 0]
    assert [*counts(jax.jit(optimize(optimize(f))), X, Y)] == [of_lax, 0]


@every_case
def test_lowers_to_the_same_text(name):
    def text(f):
        text = jax.jit(lambda x, y: f(x, y)).lower(X, Y).as_text()
        text = re.sub(r"mhlo.frontend_attributes = {jbdot = \"direct\"}(, )?", "", text)
        text = text.replace(" attributes {}", "").replace(" {}", "")
        return [line for line in text.splitlines() if "module @" not in line]

    assert text(optimize(CASES[name], lowering="direct")) == text(CASES[name])


@in_reverse
def test_grad_of_the_optimized_plans_the_dots_of_the_rules_too(name):
    f = summed(CASES[name])
    want, got = (jax.jit(jax.value_and_grad(g, (0, 1))) for g in (f, optimize(f)))
    assert_same(got(X, Y), want(X, Y))
    assert [*counts(got, X, Y)] == [counts(want, X, Y)[1], 0]
    eager = jax.grad(optimize(f), (0, 1))
    assert [*counts(eager, X, Y)] == [counts(jax.grad(f, (0, 1)), X, Y)[1], 0]


@in_reverse
def test_optimized_grad(name):
    gradient = jax.grad(summed(CASES[name]))
    assert_same(jax.jit(optimize(gradient))(X, Y), jax.jit(gradient)(X, Y))
    assert [*counts(optimize(gradient), X, Y)] == [counts(gradient, X, Y)[1], 0]


@pytest.mark.parametrize("name", forward)
def test_jvp(name):
    f = CASES[name]
    want, got = (lambda x, y, g=g: jax.jvp(g, (x, y), (y, x)) for g in (f, optimize(f)))
    assert_same(jax.jit(got)(X, Y), jax.jit(want)(X, Y))
    assert [*counts(got, X, Y)] == [counts(want, X, Y)[1], 0]


@every_case
def test_vmap_on_either_side(name):
    f, xs = CASES[name], jnp.stack([X, -X])
    mapped = jax.vmap(f, (0, None))
    for got in (jax.vmap(optimize(f), (0, None)), optimize(mapped)):
        assert_same(jax.jit(got)(xs, Y), jax.jit(mapped)(xs, Y))
        assert [*counts(got, xs, Y)] == [counts(mapped, xs, Y)[1], 0]


def test_a_policy_keeps_the_planned_dots():
    def dots(policy):
        f = jax.checkpoint(lambda x, y: jnp.sum(jnp.square(jnp.square(x @ y) @ y)), policy=policy)
        gradient = jax.grad(optimize(f))
        assert [*counts(gradient, X, Y)] == [counts(jax.grad(f), X, Y)[1], 0]
        return counts(gradient, X, Y)[0]

    assert dots(jax.checkpoint_policies.dots_saveable) == 4
    assert dots(None) == 6


def test_hessian():
    def f(x, y):
        return jnp.sum(jnp.square(with_jvp(x, y)) @ y)

    assert_same(jax.hessian(optimize(f))(X, Y), jax.hessian(f)(X, Y))
    assert counts(jax.hessian(optimize(f)), X, Y)[1] == 0


def test_inside_the_axes_of_vmap_and_shard_map():
    def f(x):
        return lax.psum(x @ Y, "i")

    xs = jnp.stack([X, 2 * X])
    assert_same(jax.vmap(optimize(f), axis_name="i")(xs), jax.vmap(f, axis_name="i")(xs))
    mapped, wanted = (jax.shard_map(g, mesh=MESH, in_specs=P("i"), out_specs=P()) for g in (optimize(f), f))
    assert_same(jax.jit(mapped)(X), jax.jit(wanted)(X))
    assert_same(jax.grad(lambda x: jnp.sum(mapped(x)))(X), jax.grad(lambda x: jnp.sum(wanted(x)))(X))


def test_solve():
    x = jnp.eye(4) + X / 8
    gradient = jax.grad(lambda x, y: jnp.sum(jnp.linalg.solve(x, y)), (0, 1))
    for got, want in zip(optimize(gradient)(x, Y), gradient(x, Y), strict=True):
        np.testing.assert_allclose(got, want, 1e-5)
    assert [*counts(optimize(gradient), x, Y)] == [counts(gradient, x, Y)[1], 0]
    assert any(row.times is None for row in optimize(gradient).report(x, Y))


def test_kernels_are_left_alone():
    def kernel(x, y, out):
        out[...] = x[...] @ y[...]

    def f(x, y):
        return pl.pallas_call(kernel, jax.ShapeDtypeStruct((4, 4), x.dtype), interpret=True)(x @ y, y)

    assert_same(jax.jit(optimize(f))(X, Y), jax.jit(f)(X, Y))
    text = jax.jit(optimize(f, lowering="reduced")).lower(X, Y).as_text()
    assert text.count("stablehlo.dot_general") == 1  # the kernel's; the other one is lowered as asked
    report = optimize(f).report(X, Y)
    assert (len(report), [one.kind for one in report.alone]) == (1, ["kernel"])


def test_custom_partitioning_is_marked_too():
    @custom_partitioning
    def f(x, y):
        return x @ y

    f.def_partition(lambda *_: None, infer_sharding_from_operands=lambda *_: None, sharding_rule="i j, j k -> i k")
    assert [*counts(optimize(lambda x, y: f(x, y) @ y), X, Y)] == [2, 0]


def test_pytrees_keywords_flags_and_none():
    def f(params, *rest, flag, axis=0, name=None):
        assert flag is True
        assert name is None or type(name) is str
        out = params["x"] @ params["y"] + rest[0]
        return {"sum": jnp.sum(out, axis=axis), "none": params["none"], "n": rest[1], "name": name}, (out, [])

    params = {"x": X, "y": np.asarray(Y), "none": None}
    for kwargs in ({"flag": True}, {"flag": True, "axis": 1, "name": "a"}):
        want, got = (g(params, 2.0, 3, **kwargs) for g in (f, optimize(f)))
        assert_same(got[1], want[1])
        assert (got[0]["n"], got[0]["none"], got[0]["name"]) == (3, None, kwargs.get("name"))
        np.testing.assert_array_equal(got[0]["sum"], want[0]["sum"])
    under_jit = jax.jit(optimize(f), static_argnames=("flag", "axis", "name"))
    assert_same(under_jit(params, 2.0, 3, flag=True)[1], want[1])


def test_weak_types_and_dtypes():
    weak = jnp.multiply(2.0, 1.0)
    out = optimize(lambda x, y, s: (s * 2, s * x.astype(jnp.bfloat16), x @ y, jnp.argmax(x @ y, 1)))(X, Y, weak)
    assert [x.dtype.name for x in out] == ["float32", "bfloat16", "float32", "int32"]
    assert [x.weak_type for x in out] == [True, False, False, False]
    assert optimize(lambda x: x * 2)(3.0) == 6
    ints = array(3, 4, dtype=jnp.int8), array(4, 3, dtype=jnp.int8)
    assert_same(optimize(jnp.matmul)(*ints), jnp.matmul(*ints))


def test_custom_vjp_with_integers_and_symbolic_zeros():
    @jax.custom_vjp
    def take(x, index, y):
        return x[index] @ y, index

    take.defvjp(
        lambda x, index, y: ((x[index] @ y, index), (index, y)),
        lambda kept, g: (jnp.zeros_like(X).at[kept[0]].set(g[0] @ kept[1].T), None, None),
    )
    index = jnp.arange(4)
    want, got = (jax.grad(lambda x, y, f=f: jnp.sum(f(x, index, y)[0]), (0, 1))(X, Y) for f in (take, optimize(take)))
    assert_same(got, want)

    @functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
    def scaled(scale, x, y):
        return scale * (x @ y)

    @functools.partial(scaled.defjvp, symbolic_zeros=True)
    def _(scale, primals, tangents):
        assert isinstance(tangents[1], jax.custom_derivatives.SymbolicZero)
        return scaled(scale, *primals), scale * (tangents[0] @ primals[1])

    want, got = (
        jax.grad(lambda x, f=f: jnp.sum(f(x)))(X)
        for f in (lambda x: scaled(3, x, Y), optimize(lambda x: scaled(3, x, Y)))
    )
    assert_same(got, want)


def test_donation_and_shardings():
    def f(x, y):
        return x @ y

    outer, inner = jax.jit(optimize(f), donate_argnums=0), optimize(jax.jit(f, donate_argnums=0))
    for g in (outer, inner, jax.jit(f, donate_argnums=0)):
        x = X + 0
        assert_same(g(x, Y), f(X, Y))
        assert x.is_deleted()
        assert not Y.is_deleted()
    sharding = NamedSharding(jax.make_mesh((2,), ("i",)), P("i"))
    out = optimize(jax.jit(f, in_shardings=sharding, out_shardings=sharding))(X, Y)
    assert out.sharding == sharding
    with jax.set_mesh(sharding.mesh):
        out = jax.jit(optimize(f))(jax.device_put(X, sharding), jax.device_put(Y, NamedSharding(sharding.mesh, P())))
    assert out.sharding.spec == P("i", None)


def test_prints_and_references(capfd):
    def f(x, y):
        jax.debug.print("first {}", x[0, 0], ordered=True)
        out = lax.map(lambda row: row @ y, x)
        jax.debug.print("second {}", out.shape[0], ordered=True)
        return out

    for g in (f, optimize(f), jax.jit(optimize(f))):
        assert_same(g(X, Y), X @ Y)
        jax.effects_barrier()
        assert capfd.readouterr().out == f"first {X[0, 0]}\nsecond 4\n"

    def write(kept, x, y):
        kept[...] = kept[...] + x @ y

    kept = jax.new_ref(jnp.zeros((4, 4)))
    optimize(write)(kept, X, Y)
    jax.jit(optimize(write))(kept, X, Y)
    np.testing.assert_array_equal(kept[...], 2 * X @ Y)


def test_keeps_no_tracer_and_follows_what_f_reads():
    state = {"scale": 1}
    f = optimize(lambda x, y: (x @ y) * state["scale"])
    with jax.checking_leaks():
        assert_same(jax.jit(lambda x: optimize(nested)(x, Y))(X), nested(X, Y))
    first = f(X, Y)
    state["scale"] = 2
    assert_same(f(X, Y), 2 * first)
    # A closed-over array is differentiated as any other.
    assert_same(jax.grad(lambda y: jnp.sum(optimize(lambda x: x @ y)(X)))(Y), jax.grad(lambda y: jnp.sum(X @ y))(Y))


def test_a_second_eager_call_compiles_nothing(caplog):
    @jax.jit
    def f(x, y):
        return with_scan(x, jax.nn.relu(x @ y))

    optimize(f)(X, Y)
    with jax.log_compiles():
        optimize(f)(X, Y)
    assert not [record for record in caplog.records if "ompil" in record.message]


def test_is_named_as_the_function_and_binds_as_a_method():
    def f(x):
        """Doc."""
        return x

    g = optimize(f)
    assert (g.__name__, g.__doc__, g.__wrapped__, inspect.signature(g)) == ("f", "Doc.", f, inspect.signature(f))
    assert isinstance(g, Optimized)

    class Layer:
        w = Y

        @optimize
        def apply(self, x):
            return x @ self.w

    assert_same(Layer().apply(X), X @ Y)
    assert [*counts(Layer().apply, X)] == [1, 0]
    assert len(Layer().apply.report(X)) == 1
    assert len(Layer.apply.report(Layer(), X)) == 1


def test_refuses_in_the_house_words():
    with pytest.raises(TypeError, match=r"^optimize: f must be callable: got a int; f=3, lowering='auto'\. Give"):
        optimize(3)
    with pytest.raises(
        ValueError, match=r"^optimize: lowering must be the name of a lowering: there is no 'best'.*One of auto"
    ):
        optimize(jnp.dot, lowering="best")
    with pytest.raises(TypeError, match=r"^optimize: lowering must be the name of a lowering: got None"):
        optimize(jnp.dot, lowering=None)


def attend(params, x):
    q, k, v = (x @ params[name] for name in "qkv")
    scores = jax.nn.softmax(jnp.einsum("bqd,bkd->bqk", q, k) / 2)
    x = x + jnp.einsum("bqk,bkd->bqd", scores, v)
    hidden = jax.nn.gelu(x @ params["up"] + params["bias"])
    return hidden @ params["down"]


def test_a_train_step():
    sizes = {"q": (4, 4), "k": (4, 4), "v": (4, 4), "up": (4, 8), "bias": (8,), "down": (8, 2)}
    params = {name: jnp.asarray(RNG.normal(size=size), jnp.float32) for name, size in sizes.items()}
    x, y = jnp.asarray(RNG.normal(size=(3, 5, 4)), jnp.float32), jnp.asarray(RNG.normal(size=(3, 5, 2)), jnp.float32)
    optimizer = optax.sgd(0.1, momentum=0.9)

    def step(params, state, x, y):
        loss, gradients = jax.value_and_grad(lambda params: jnp.mean(jnp.square(attend(params, x) - y)))(params)
        updates, state = optimizer.update(gradients, state)
        return loss, optax.apply_updates(params, updates), state

    args = params, optimizer.init(params), x, y
    assert [*counts(optimize(step), *args)] == [counts(step, *args)[1], 0]
    planned, plain = args, args
    for _ in range(2):
        (loss, *new), (want, *old) = jax.jit(optimize(step))(*planned), jax.jit(step)(*plain)
        planned, plain = (*new, x, y), (*old, x, y)
        jax.tree.map(lambda got, want: np.testing.assert_allclose(got, want, 1e-4, 1e-4), (loss, new), (want, old))


def test_report_names_every_line():
    lines, first = inspect.getsourcelines(attend)
    want = [first + at for at, line in enumerate(lines) for _ in range(3 if "qkv" in line else 1) if dots_in(line)]
    shapes = {"q": (4, 4), "k": (4, 4), "v": (4, 4), "up": (4, 8), "bias": (8,), "down": (8, 2)}
    params = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
    report = optimize(attend).report(params, jax.ShapeDtypeStruct((3, 5, 4), jnp.float32), platform="gpu")
    assert [row.source.rpartition("/")[2] for row in report][3:] == [f"test_optimize.py:{n} (attend)" for n in want[3:]]
    assert all(f"test_optimize.py:{n} (attend" in row.source for row, n in zip(report, want, strict=True))
    assert report.flops == sum(row.flops for row in report) == 2 * 15 * (3 * 16 + 2 * 5 * 4 + 4 * 8 + 8 * 2)
    assert str(report.rows[3].contraction) == "b m k, b n k -> b m n"
    assert report.platform == "gpu"
    text = str(report).splitlines()
    assert text[0].startswith("attend on gpu: 7 dots, 4,080 FLOPs")
    assert text[2].split() == ["where", "times", "FLOPs", "lowering", "note"]
    assert text[12].split()[:2] == [f"test_optimize.py:{want[3]}", "(attend)"]
    assert text[13:15] == [
        " " * 6 + "b m k, b n k -> b m n",
        " " * 6 + "float32[3,5,4] float32[3,5,4] -> float32[3,5,5]",
    ]
    assert text[-1] == "  1: as it stands: no other way is surely faster"
    assert "<td>480</td>" in report._repr_html_()


def dots_in(line):
    return "@ params" in line or "einsum" in line


def test_report_counts_and_says_the_choice():
    def f(x, y):
        with_while(x, y)
        return lax.scan(lambda carry, _: (lax.map(lambda row: row @ y, carry), None), x, None, 3)

    loop, row = optimize(f, lowering="unrolled").report(X, Y)
    assert (loop.times, row.times, row.flops) == (None, 12, 32)
    assert (row.choice.lowering, row.choice.why) == ("unrolled", "as asked")
    report = optimize(f).report(X, Y)
    assert report.flops == 12 * 32
    assert "where it is known" in report.title
    assert report.title == str(report).splitlines()[0] == repr(report).splitlines()[0]
    size = export.symbolic_shape("b")
    assert "FLOPs" in str(optimize(jnp.matmul).report(jax.ShapeDtypeStruct((*size, 4), jnp.float32), Y))
    assert len(optimize(jnp.sin).report(X)) == 0
    assert str(optimize(jnp.sin).report(X)).startswith("sin on cpu: 0 dots, 0 FLOPs")
