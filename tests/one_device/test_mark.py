"""The mark: whose lowering a dot gets, and the switch for a whole process."""

import subprocess
import sys

import jax
import numpy as np
import pytest
from jax import lax
from jax import numpy as jnp
from jax.experimental.xla_metadata import set_xla_metadata

import jbdot
from jbdot.one_device import mark

X, Y = jnp.asarray(np.arange(12.0).reshape(3, 4)), jnp.asarray(np.arange(8.0).reshape(4, 2))
NUMBERS = (((1,), (0,)), ((), ()))


def lowering(f, *args):
    """What the only dot of a function gets."""
    (dot,) = (e for e in jax.make_jaxpr(f)(*args).eqns if e.primitive is lax.dot_general_p)
    return mark.of(dot.ctx.xla_metadata or {})


@pytest.fixture
def process():
    yield jbdot.optimize_everything
    jbdot.optimize_everything(None)


def test_a_call_says_auto_unless_it_or_what_is_around_it_says_otherwise():
    assert lowering(jbdot.dot, X, Y) == "auto"
    assert lowering(lambda x, y: jbdot.dot(x, y, lowering="reduced"), X, Y) == "reduced"
    assert lowering(lambda x, y: jbdot.dot(x, y, lowering="direct"), X, Y) == "direct"
    with jbdot.optimize("unrolled"):
        assert lowering(jnp.dot, X, Y) == "unrolled"
        assert lowering(jbdot.dot, X, Y) == "unrolled"
        assert lowering(lambda x, y: jbdot.dot(x, y, lowering="reduced"), X, Y) == "reduced"
        assert lowering(lambda x, y: jbdot.dot(x, y, lowering="direct"), X, Y) == "direct"
        with jbdot.optimize("direct"):
            assert lowering(jnp.dot, X, Y) == lowering(jbdot.dot, X, Y) == "direct"
        assert lowering(jnp.dot, X, Y) == "unrolled"
    assert lowering(jnp.dot, X, Y) == "direct"


def test_a_direct_call_sets_no_mark_outside_of_others():
    (dot,) = jax.make_jaxpr(lambda x, y: jbdot.dot(x, y, lowering="direct"))(X, Y).eqns
    assert not dot.ctx.xla_metadata
    text = jax.jit(lambda x, y: jbdot.dot_general(x, y, NUMBERS, lowering="direct")).lower(X, Y).as_text()
    assert "jbdot" not in text
    assert "frontend_attributes" not in text


def test_a_context_survives_an_error_and_can_be_entered_again():
    context = jbdot.optimize()
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), context, context:
            1 / (lowering(jnp.dot, X, Y) != "auto")
        assert lowering(jnp.dot, X, Y) == "direct"


def test_metadata_of_the_user_is_kept():
    def f(x, y):
        with set_xla_metadata(mine="1"):
            return jbdot.dot(x, y, lowering="reduced")

    (dot,) = jax.make_jaxpr(f)(X, Y).eqns
    assert dot.ctx.xla_metadata == {"mine": "1", "jbdot": "reduced"}
    for call in (f, jbdot.optimize(f)):
        text = jax.jit(call).lower(X, Y).as_text()
        assert 'mine = "1"' in text
        assert "dot_general" not in text
    with set_xla_metadata(mine="1"):
        assert 'mine = "1"' in jax.jit(jbdot.optimize(jnp.matmul)).lower(X, Y).as_text()


def test_a_whole_process(process):
    inner = jax.jit(lambda x, y: x @ y)
    plain = inner(X, Y)
    assert "dot_general" in inner.lower(X, Y).as_text()
    process("reduced")
    assert "dot_general" not in inner.lower(X, Y).as_text()  # it was compiled before
    np.testing.assert_array_equal(inner(X, Y), plain)
    assert lowering(jnp.dot, X, Y) == lowering(jbdot.dot, X, Y) == "reduced"
    with jbdot.optimize("direct"):
        assert lowering(jnp.dot, X, Y) == "direct"
    process("direct")
    assert lowering(jbdot.dot, X, Y) == "direct"
    process(None)
    assert (lowering(jnp.dot, X, Y), lowering(jbdot.dot, X, Y)) == ("direct", "auto")
    assert "dot_general" in inner.lower(X, Y).as_text()


def test_hash_gives_each_dot_some_lowering_that_fits(process):
    process("hash")
    texts = set()
    for k in range(2, 12):
        x, y = jnp.ones((3, 2, k)), jnp.ones((3, k, 4))
        lowered = jax.jit(jnp.matmul).lower(x, y)
        texts.add(tuple(word for word in ("dot_general", "while", "LayoutConstraint") if word in lowered.as_text()))
        np.testing.assert_array_equal(lowered.compile()(x, y), np.full((3, 2, 4), k))
    assert len(texts) > 2


@pytest.mark.parametrize(("asked", "error"), [("fast", ValueError), (3, TypeError)])
def test_what_is_no_lowering_is_refused(asked, error):
    with pytest.raises(error, match=r"^optimize_everything: lowering must be the name of a lowering: .*One of auto"):
        jbdot.optimize_everything(asked)
    with pytest.raises(error, match=r"^optimize: lowering must be"):
        jbdot.optimize(lowering=asked)


def run(code, **variables):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env={**ENVIRONMENT, **variables}
    )


ENVIRONMENT = {"JAX_PLATFORMS": "cpu", "PATH": "/usr/bin:/bin"}
CODE = """
import jax, jax.numpy as jnp
before = jax.jit(jnp.matmul)
before(jnp.ones((3, 4)), jnp.ones((4, 2)))
import jbdot
print("dot_general" in before.lower(jnp.ones((3, 4)), jnp.ones((4, 2))).as_text())
"""


def test_the_variable_is_read_when_jbdot_is_imported():
    assert run(CODE).stdout == "True\n"
    assert run(CODE, JBDOT_LOWERING="reduced").stdout == "False\n"
    wrong = run(CODE, JBDOT_LOWERING="fast")
    assert "ValueError: import jbdot: lowering must be the name of a lowering: there is no 'fast'" in wrong.stderr
    assert "JBDOT_LOWERING=fast" in wrong.stderr
