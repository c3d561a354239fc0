"""Meshes and shardings as the command reads them."""

import pytest
from jax.sharding import PartitionSpec as P

from jbdot.command import mesh_text

MESH = {"x": 2, "y": 4}


def test_short_forms():
    assert mesh_text.parse("", MESH) == P()
    assert mesh_text.parse(",,yx", MESH) == P(None, None, ("y", "x"))
    assert mesh_text.parse("data+y", {"data": 2, "y": 2}) == P(("data", "y"))
    assert mesh_text.parse_mesh("data=2, y=4") == {"data": 2, "y": 4}


@pytest.mark.parametrize("text", ["x", "x=", "x=0", "4", "", "x=2;y=3", "1=2"])
def test_what_is_no_mesh(text):
    with pytest.raises(ValueError, match="a mesh must be named as axis=size"):
        mesh_text.parse_mesh(text)


def test_an_axis_that_the_mesh_has_not():
    with pytest.raises(ValueError, match="'z' in ',z', and the mesh has x=2, y=4"):
        mesh_text.parse(",z", MESH)
