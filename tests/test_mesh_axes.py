"""How shardings are read and written."""

import jax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import PartitionSpec as P
from meshes import shardings

from jbdot import mesh_axes

MESH = {"x": 2, "y": 4}
EVERY = shardings("xy", 3)


@given(st.sampled_from(EVERY))
def test_what_is_written_is_read_again(sharding):
    spec = mesh_axes.written(sharding)
    assert mesh_axes.read(spec, 3, MESH, "lhs") == sharding
    assert eval(mesh_axes.code(spec), {"P": P}) == spec


@given(st.sampled_from(EVERY))
def test_labels_say_the_same(sharding):
    places = dict(zip("bmk", sharding, strict=True))
    assert mesh_axes.of_labels(places, tuple("bmk")) == mesh_axes.written(sharding)


def test_short_forms():
    assert mesh_axes.parse("", MESH) == P()
    assert mesh_axes.parse(",,yx", MESH) == P(None, None, ("y", "x"))
    assert mesh_axes.parse("data+y", {"data": 2, "y": 2}) == P(("data", "y"))
    assert mesh_axes.parse_mesh("data=2, y=4") == {"data": 2, "y": 4}


@pytest.mark.parametrize("text", ["x", "x=", "x=0", "4", "", "x=2;y=3", "1=2"])
def test_what_is_no_mesh(text):
    with pytest.raises(ValueError, match="a mesh must be named as axis=size"):
        mesh_axes.parse_mesh(text)


def test_an_axis_that_the_mesh_has_not():
    with pytest.raises(ValueError, match="'z' in ',z', and the mesh has x=2, y=4"):
        mesh_axes.parse(",z", MESH)


def test_where_an_array_is():
    assert mesh_axes.mesh_of(jax.ShapeDtypeStruct((2,), "float32")) is None
    assert mesh_axes.mesh_of(3.0) is None
