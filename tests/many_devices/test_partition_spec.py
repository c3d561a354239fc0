"""How shardings are read and written."""

import jax
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import PartitionSpec as P
from meshes import shardings

from jbdot.many_devices import partition_spec

MESH = {"x": 2, "y": 4}
EVERY = shardings("xy", 3)


@given(st.sampled_from(EVERY))
def test_what_is_written_is_read_again(sharding):
    spec = partition_spec.written(sharding)
    assert partition_spec.read(spec, 3, MESH, "lhs") == sharding
    assert eval(partition_spec.code(spec), {"P": P}) == spec


@given(st.sampled_from(EVERY))
def test_labels_say_the_same(sharding):
    places = dict(zip("bmk", sharding, strict=True))
    assert partition_spec.of_labels(places, tuple("bmk")) == partition_spec.written(sharding)


def test_where_an_array_is():
    assert partition_spec.mesh_of(jax.ShapeDtypeStruct((2,), "float32")) is None
    assert partition_spec.mesh_of(3.0) is None
