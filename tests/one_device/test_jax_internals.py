"""Each contract with JAX's insides: that it holds in this JAX, and that one which has changed costs a warning only."""

import io
import subprocess
import sys
import warnings

import jax
import numpy as np
import pytest
from jax import export, lax
from jax import numpy as jnp
from jax.experimental.xla_metadata import set_xla_metadata
from jax.interpreters import ad, mlir

import jbdot
from jbdot.one_device import jax_internals

X, Y = jnp.asarray(np.arange(12.0).reshape(3, 4)), jnp.asarray(np.arange(8.0).reshape(4, 2))


@pytest.fixture(autouse=True)
def warned():
    jax_internals._warn.cache_clear()
    yield
    jax_internals._warn.cache_clear()


@pytest.fixture
def lowered():
    """Lowers functions of one primitive, and gives what `read` finds in the context and the operands of its rule."""

    def look(read, f, *args, **options):
        found = []
        probe = jax_internals.primitive("probe")
        probe.def_abstract_eval(lambda x: x)

        def rule(context, x):
            found.append(read(context, x))
            return [x]

        mlir.register_lowering(probe, rule, cacheable=False)
        if "platforms" in options:
            export.export(jax.jit(lambda *args: f(probe, *args)), **options)(*args)
        else:
            jax.jit(lambda *args: f(probe, *args)).lower(*args)
        return found[-1]

    return look


def bind(probe, x):
    return probe.bind(x)


def test_tell_transposes():
    told = []

    def tell(operand, params):
        told.append(operand.dtype)
        return params | {"scale": 3.0}

    probe = jax_internals.primitive("probe_product")
    probe.def_abstract_eval(lambda x, y, scale: x)
    ad.defbilinear(probe, *(lambda ct, x, y, scale: ct * scale,) * 2)
    jax_internals.tell_transposes(probe, tell)
    x = jnp.ones(2)
    for side, other in ((lambda t: probe.bind(t, x, scale=2.0), x), (lambda t: probe.bind(x, t, scale=2.0), x)):
        np.testing.assert_array_equal(jax.linear_transpose(side, other)(x)[0], 3 * x)
    assert set(told) == {jnp.dtype("float32")}


def test_metadata():
    assert jax_internals.metadata() == {}
    with set_xla_metadata(a="1"):
        assert jax_internals.metadata() == {"a": "1"}
        (equation,) = jax.make_jaxpr(jnp.sin)(1.0).eqns
    assert jax_internals.metadata_of(equation.ctx) == {"a": "1"}
    (equation,) = jax.make_jaxpr(jnp.sin)(1.0).eqns
    assert jax_internals.metadata_of(equation.ctx) == {}


def test_metadata_of_lowered(lowered):
    def f(probe, x):
        with set_xla_metadata(a="1"):
            return probe.bind(x)

    assert lowered(lambda context, x: jax_internals.metadata_of_lowered(context), f, X) == {"a": "1"}
    assert lowered(lambda context, x: jax_internals.metadata_of_lowered(context), bind, X) == {}


def test_platform_and_export(lowered):
    def read(context, x):
        return jax_internals.platform(context), jax_internals.is_exported(context), jax_internals.is_local(context)

    assert lowered(read, bind, X) == ("cpu", False, True)
    assert lowered(read, bind, X, platforms=["tpu"]) == ("tpu", True, True)
    assert lowered(read, bind, X, platforms=["cuda", "tpu"]) == ("other", True, True)


def test_is_local(lowered):
    mesh = jax.make_mesh((2,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
    x = jax.device_put(jnp.ones((4, 4)), sharding)
    assert lowered(lambda context, x: jax_internals.is_local(context), bind, x) is False

    def mapped(probe, x):
        spec = jax.sharding.PartitionSpec("x")
        return jax.shard_map(probe.bind, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)(x)

    assert lowered(lambda context, x: jax_internals.is_local(context), mapped, x) is True


def test_notes_live_as_long_as_a_module(lowered):
    def read(context, x):
        notes = jax_internals.notes(context)
        notes[x] = notes.get(x, 0) + 1
        return dict(notes)

    twice = lowered(read, lambda probe, x: probe.bind(x) + probe.bind(x + 1) + probe.bind(x), X)
    assert sorted(twice.values()) == [1, 2]
    assert list(lowered(read, bind, X).values()) == [1]


def test_surroundings(lowered):
    def read(context, x):
        jaxpr, equation, values = jax_internals.surroundings()
        (variable,) = equation.invars
        return equation in jaxpr.eqns, equation.primitive.name, values[variable] == x

    assert lowered(read, lambda probe, x: probe.bind(x + 1) * 2, X) == (True, "probe", True)
    with pytest.warns(UserWarning, match=r"surroundings.*jaxpr_subcomp"):
        assert jax_internals.surroundings() is None  # nothing is being lowered here


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", "bool", "complex64"])
def test_blank(lowered, dtype):
    def read(context, x):
        return jax_internals.blank(context).type == x.type

    assert lowered(read, bind, X.astype(dtype))
    assert lowered(read, bind, jnp.ones((), dtype))


def test_transposed(lowered):
    def f(probe, x):
        return probe.bind(lax.transpose(x, (1, 0)))

    _, permutation = lowered(lambda context, x: jax_internals.transposed(x), f, X)
    assert permutation == (1, 0)
    assert lowered(lambda context, x: jax_internals.transposed(x), bind, X) is None
    assert lowered(lambda context, x: jax_internals.transposed(x), lambda probe, x: probe.bind(x + 1), X) is None


def test_an_anchor_takes_another_operand(lowered):
    def read(context, x):
        anchor = jax_internals.anchored(x)
        used = jax_internals.is_used(anchor)
        reader = jax_internals.anchored(anchor)
        with jax_internals.before(anchor):
            other = jax_internals.anchored(x)
        jax_internals.reattached(anchor, other)
        return (
            used,
            jax_internals.is_used(anchor),
            anchor.owner.operands[0] == other,
            reader.owner.operands[0] == anchor,
        )

    assert lowered(read, bind, X) == (False, True, True, True)


def test_a_rule_before_jaxs_own():
    from jax._src.interpreters import mlir as insides

    seen = []

    def rule(context, x, *, before, platform, **params):
        seen.append(platform)
        return before(context, x, **params)

    saved = insides._lowerings[lax.cbrt_p]
    own = {
        name: table[lax.cbrt_p] for name, table in insides._platform_specific_lowerings.items() if lax.cbrt_p in table
    }
    try:
        jax_internals.put_before(lax.cbrt_p, rule)
        np.testing.assert_allclose(jax.jit(jnp.cbrt)(jnp.float32(27)), 3, 1e-6)
    finally:
        insides._lowerings[lax.cbrt_p] = saved
        insides._uncacheable_primitives.discard(lax.cbrt_p)
        for name, entry in own.items():
            insides._platform_specific_lowerings[name][lax.cbrt_p] = entry
    assert len(seen) == 1


def test_jbdot_rule_stands_before_jaxs_own():
    assert (
        "stablehlo.dot_general" not in jax.jit(lambda x, y: jbdot.dot(x, y, lowering="reduced")).lower(X, Y).as_text()
    )


def test_ragged_dot_primitive():
    rows, matrices, sizes = jnp.ones((3, 4)), jnp.ones((2, 4, 2)), jnp.array([1, 2])
    (equation,) = jax.make_jaxpr(lax.ragged_dot)(rows, matrices, sizes).eqns
    assert equation.primitive is jax_internals.ragged_dot_primitive()
    assert equation.primitive.name == "ragged_dot_general"


def test_what_is_of_no_line():
    def f(x):
        with jax_internals.of_no_line():
            return x + 1

    (equation,) = jax.make_jaxpr(f)(1.0).eqns
    assert jax_internals.source(equation) == ""


def test_source_and_inner_jaxprs():
    (equation,) = jax.make_jaxpr(lambda x: jax.jit(lambda x: x + 1)(x))(1.0).eqns
    assert "test_jax_internals.py" in jax_internals.source(equation)
    assert len(jax_internals.inner_jaxprs(equation.params)) == 1
    assert jax_internals.inner_jaxprs({"a": 1}) == []


def test_a_patch_of_the_dot_is_seen(monkeypatch):
    assert jax_internals.is_patched() is False
    own = lax.dot_general
    monkeypatch.setattr(lax, "dot_general", lambda *args, **kwargs: own(*args, **kwargs))
    assert jax_internals.is_patched() is True
    monkeypatch.setattr(lax, "dot_general", own)
    code = own.__code__
    try:  # as qwix does it
        own.__code__ = (lambda lhs, rhs, *args, **kwargs: lhs).__code__
        assert jax_internals.is_patched() is True
    finally:
        own.__code__ = code
    assert jax_internals.is_patched() is False


def test_sharding_error():
    assert jax_internals.sharding_error().__name__ == "ShardingTypeError"


def test_a_line_in_jbdot_is_nobodys():
    (equation,) = jax.make_jaxpr(lambda x, y: jbdot.dot(x, y))(X, Y).eqns
    assert "test_jax_internals.py" in jax_internals.source(equation)


@pytest.mark.parametrize(
    "contract",
    [
        "metadata",
        "metadata_of_lowered",
        "is_exported",
        "is_local",
        "notes",
        "transposed",
        "anchored",
        "is_used",
        "of_no_line",
    ],
)
def test_a_changed_jax_costs_one_warning_and_nothing_else(contract, monkeypatch):
    """Every contract that is read while a program is traced or lowered, gone one at a time."""
    fallback = getattr(jax_internals, contract).fallback

    def gone(*args):
        raise AttributeError("gone")

    gone.__name__ = contract
    monkeypatch.setattr(jax_internals, contract, jax_internals._contract(fallback)(gone))
    x, y = jnp.ones((8, 4, 3)), jnp.ones((8, 4, 5))
    step = jax.value_and_grad(lambda x, y: (jnp.einsum("bkm,bkn->bmn", x, y).swapaxes(1, 2) + 1).sum(), (0, 1))

    def run():
        for lowering in ("reduced", "unrolled"):
            value, gradients = jax.jit(jbdot.optimize(step, lowering=lowering))(x, y)
            assert (value, gradients[0].sum(), gradients[1].sum()) == (600, 480, 480)
        assert jax.jit(lambda x, y: jbdot.batch_dot(x, y, 1, lowering="direct"))(x, y).sum() == 480

    with pytest.warns(UserWarning, match=rf"has changed what jax_internals.{contract} reads") as told:
        run()
    assert len(told) == 1


def test_a_platform_that_is_not_found_has_no_rules(monkeypatch):
    def platform(*args):
        raise AttributeError("gone")

    monkeypatch.setattr(jax_internals, "platform", jax_internals._contract(jax_internals.platform.fallback)(platform))
    small = jnp.ones((4096, 4, 4))
    with pytest.warns(UserWarning, match="has changed what jax_internals.platform reads"):
        text = export.export(jax.jit(jbdot.matmul), platforms=["cuda"])(small, small).mlir_module()
    assert text.count("stablehlo.dot_general") == 1


def test_a_rule_that_is_not_found_leaves_jaxs_own():
    with pytest.warns(UserWarning, match="has changed what jax_internals.put_before reads"):
        jax_internals.put_before(jax_internals.primitive("no rule of its own"), lambda: None)
    probe = jax_internals.primitive("no rule for checkpoint")
    jax_internals.remat_as_dot(probe, dict)


REMOVED = """
import warnings
import jax
from jax.interpreters import ad, batching, mlir
del jax.Ref, mlir.lower_fun, mlir.register_lowering, ad.defbilinear, batching.fancy_primitive_batchers
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    import jbdot
print(sorted(str(warning.message).split("jax_internals.")[1].split()[0] for warning in told))
x = jax.numpy.ones((4096, 4, 4))
print(float(jax.jit(jbdot.matmul)(x, x).sum()), float(jax.grad(lambda x: jbdot.matmul(x, x).sum())(x).sum()))
"""


def test_what_jax_removes_does_not_keep_jbdot_from_being_imported():
    said, values = subprocess.run([sys.executable, "-c", REMOVED], capture_output=True, text=True).stdout.splitlines()
    assert eval(said) == ["bilinear", "lowered_by", "references"]
    assert values == "262144.0 524288.0"


def test_a_module_takes_the_place_of_another():
    module = io.BytesIO()
    jax.jit(lambda x: x + 41).lower(1.0).compiler_ir().operation.write_bytecode(module)
    lowered = jax.jit(lambda x: x * 0).lower(1.0)
    jax_internals.put_module(lowered, module.getvalue())
    assert lowered.compile()(1.0) == 42


def test_a_change_is_told_once():
    @jax_internals._contract(7)
    def reading():
        raise AttributeError("gone")

    with pytest.warns(UserWarning, match=rf"jbdot: jax {jax.__version__} has changed what jax_internals.reading reads"):
        assert reading() == 7
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert reading() == 7
