"""What is said of a call: text, costs, LaTeX, notebook, picture."""

import dataclasses
import sys

import jax
import pytest
from jax import export
from jax import numpy as jnp
from jax.experimental import sparse
from jax.sharding import PartitionSpec
from meshes import mesh, struct

import jbdot
from jbdot.core.colours import COLOURS


@pytest.fixture(scope="module")
def explanation():
    return jbdot.explain(jbdot.batch_dot, (10, 12, 4, 5), (10, 12, 5, 8))


def test_text_shows_everything(explanation):
    text = str(explanation)
    for fact in (
        "keras_tf1.batch_dot(x float32[10,12,4,5], y float32[10,12,5,8])",
        "out[b,c,m,n] = sum_k x[b,c,m,k] * y[b,c,k,n]",
        "k      contracting  3          2                       5",
        "bcmk,bckn->bcmn",
        "(((3,), (2,)), ((0, 1), (0, 1)))",
        "float32[10,12,4,8]",
        "38,400 (2 for each multiply-add)",
        "28,800 read, 15,360 written",
        "0.87",
        "keras.batch_dot                 (10, 12, 4, 12, 8)",
        "tensorflow.matmul               (10, 12, 4, 8)",
        "mxnet.dot                       refuses: the contracted axes must have equal",
    ):
        assert fact in text


def test_every_other_front_door_is_asked(explanation):
    doors = {name for name, _ in explanation.elsewhere}
    assert len(doors) == 27
    assert explanation.function not in doors
    assert not doors & {"keras.Dot", "keras_tf1.Dot", "tensorflow.tensordot", "torch.einsum"}  # which need more


def test_costs(explanation):
    assert explanation.flops == 2 * 10 * 12 * 4 * 8 * 5
    assert explanation.bytes_read == 4 * (10 * 12 * 4 * 5 + 10 * 12 * 5 * 8)
    assert explanation.bytes_written == 4 * 10 * 12 * 4 * 8
    assert explanation.flops_per_byte == pytest.approx(38400 / 44160)
    both = (jax.ShapeDtypeStruct((2, 2), jnp.complex64),) * 2
    assert jbdot.explain(jbdot.dot, *both).flops == 4 * jbdot.explain(jbdot.dot, (2, 2), (2, 2)).flops


def test_latex(explanation):
    assert explanation.latex == r"\mathrm{out}_{b,c,m,n} = \sum_{k} x_{b,c,m,k}\, y_{b,c,k,n}"
    words = jbdot.explain("my_row col, col -> my_row", (2, 3), (3,))
    assert "elsewhere" not in str(words) + words._repr_html_()  # no framework takes labels
    lhs, rhs = r"\mathrm{lhs}_{\mathrm{my\_row},\mathrm{col}}", r"\mathrm{rhs}_{\mathrm{col}}"
    assert words.latex == rf"\mathrm{{out}}_{{\mathrm{{my\_row}}}} = \sum_{{\mathrm{{col}}}} {lhs}\, {rhs}"


def test_notebook(explanation):
    page = explanation._repr_html_()
    assert COLOURS["contracting"] in page
    assert "keras.batch_dot" in page
    assert page.count("<table>") == page.count("</table>") == 3
    assert page.count("<svg") == page.count("</svg>") == 1


def test_notebook_without_matplotlib(explanation, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert "<svg" not in explanation._repr_html_()
    with pytest.raises(ImportError, match=r"pip install matplotlib"):
        explanation.plot()


def test_arguments_of_every_kind():
    shape, array = (2, 3), jnp.ones((2, 3))
    struct = jax.ShapeDtypeStruct(shape, jnp.float32)
    texts = {str(jbdot.explain(jbdot.keras.batch_dot, x, shape, axes=1)) for x in (shape, [2, 3], array, struct)}
    assert len(texts) == 1
    assert "axes=1" in texts.pop()


def test_layers_sparse_and_settings():
    layer = jbdot.explain(jbdot.keras.Dot(1, normalize=True), [(8, 10), (8, 10)])
    assert "x divided by its L2 norm along axis 1" in str(layer)
    x = sparse.BCOO.fromdense(jnp.eye(3))
    assert "bcoo_dot_general" in str(jbdot.explain(jbdot.keras.dot, x, (3, 4)))
    assert jbdot.explain(jbdot.dot, (2, 3), (3, 4), precision="highest").shape == (2, 4)
    assert "cast to float32" in str(jbdot.explain(jbdot.matmul, jax.ShapeDtypeStruct((2, 3), jnp.bfloat16), (3, 4)))


def test_symbolic_sizes():
    b, n = export.symbolic_shape("b, n")
    x, y = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((b, n, 4), (b, 4, 5)))
    explanation = jbdot.explain(jbdot.batch_dot, x, y)
    assert explanation.shape == (b, n, 5)
    assert "40*b*n" in str(explanation)


def test_refusals():
    with pytest.raises(ValueError, match=r"keras\.batch_dot: the contracted axes"):
        jbdot.explain(jbdot.keras.batch_dot, (8, 10, 10, 16), (8, 10, 1152, 16), axes=[2, 3])
    with pytest.raises(TypeError, match=r"explain: function must be a front door"):
        jbdot.explain(print, (2, 3), (3, 4))
    with pytest.raises(TypeError, match=r"explain: the call must fit keras_tf1\.dot\(x, y"):
        jbdot.explain(jbdot.dot, (2, 3))


@pytest.mark.parametrize(
    ("function", "args"),
    [
        (jbdot.batch_dot, ((10, 12, 4, 5), (10, 12, 5, 8))),
        (jbdot.tensorflow.tensordot, ((2, 3, 4, 6), (4, 3, 5), [[1, 2], [1, 0]])),
        (jbdot.batch_dot, ((5, 3), (5, 3), 1)),
        (jbdot.theano.dot, ((), ())),
        (jbdot.tensorflow.einsum, ("ij,jk->k", (2, 3), (3, 4))),
    ],
)
def test_picture(function, args, tmp_path):
    explanation = jbdot.explain(function, *args)
    figure = explanation.plot()
    axes = figure.axes[0]
    texts = [text.get_text() for text in axes.texts]
    c = explanation.contraction
    for label in (*c.lhs, *c.rhs, *c.out):
        assert (label or "1") in texts
    assert sum(text.startswith("sum over") for text in texts) == len(c.contracting)
    assert f"${explanation.latex}$" in texts
    colours = {patch.get_facecolor() for patch in axes.patches}
    assert len(colours) >= len({explanation.colour(label) for label in (*c.lhs, *c.rhs, *c.out)})
    figure.savefig(tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 5000


def test_operands_on_a_mesh_show_the_collectives():
    on = mesh((2, 4))
    x = struct((16, 8, 32), "float32", on, ((), (), ("x", "y")))
    y = struct((16, 32, 8), "float32", on, ((), ("x", "y"), ()))
    told = jbdot.explain(jbdot.batch_dot, x, y, out_sharding=PartitionSpec(("x", "y")))
    assert told.over_mesh.spec == PartitionSpec(("x", "y"))
    assert "over the mesh: b m k, b k n -> b m n on x=2, y=4 of CPU" in str(told)
    assert "all-to-all   lhs" in str(told)
    assert "all-to-all" in told._repr_html_()
    assert jbdot.explain(jbdot.batch_dot, (2, 3, 4), (2, 4, 5)).over_mesh is None


def test_it_is_shown_as_it_is_printed():
    explanation = jbdot.explain(jbdot.matmul, (2, 3), (3, 4))
    assert repr(explanation) == str(explanation)
    assert explanation == dataclasses.replace(explanation)
    assert explanation != dataclasses.replace(explanation, shape=(2, 5))
