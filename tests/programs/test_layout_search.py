"""The search for a layout: it finds what is best in small spaces, which are tried whole."""

import itertools

import jax
import pytest
from jax import numpy as jnp

from jbdot.devices.links import Links
from jbdot.hardware import known
from jbdot.programs.labels import Flow
from jbdot.programs.layout import Layout
from jbdot.programs.layout_cost import Costs
from jbdot.programs.layout_search import LayoutSearch


def searched(samples, inner, limit, mesh):
    def step(v, w, x):
        v_, w_ = jax.grad(lambda v, w: jnp.sum((jnp.tanh(x @ v) @ w) ** 2), (0, 1))(v, w)
        return v - v_, w - w_

    array = lambda *shape: jax.ShapeDtypeStruct(shape, "float32")  # noqa: E731
    flow = Flow.of(jax.make_jaxpr(step)(array(512, inner), array(inner, 512), array(samples, 512)))
    costs = Costs(flow, mesh, Links.of(mesh, known("v5e")), (0, 1), {})
    (d, f), (_, e), (b, _) = map(flow.labels, flow.arguments)
    told = []
    search = LayoutSearch(costs, b, [], [f, d, e], limit, told.append)
    return search, search.run(), costs, (d, f, e, b), told


@pytest.mark.parametrize(("samples", "inner", "limit"), [(1 << 16, 2048, 16e9), (256, 8192, 16e9), (4096, 8192, 5e7)])
def test_one_mesh_axis_gets_the_best_of_all_orders(samples, inner, limit):
    search, best, _, labels, _ = searched(samples, inner, limit, {"x": 4})
    every = [
        Layout({"x": order}) for count in range(len(labels) + 1) for order in itertools.permutations(labels, count)
    ]
    least = min(map(search.score, every))
    assert search.score(best.layout)[0] == least[0]
    assert search.score(best.layout)[1] <= least[1] * 1.002


def test_names_are_told_and_the_best_never_gets_worse():
    search, best, _, _, told = searched(4096, 2048, 16e9, {"x": 2, "y": 4})
    names = {candidate.name for candidate in search.named}
    assert {"data parallel over x y", "FSDP over x y", "FSDP over x, tensor parallel over y"} <= names
    scores = [search.score(candidate.layout) for candidate in told]
    assert scores == sorted(scores, reverse=True)
    assert search.score(best.layout) == min(scores)


def test_labels_that_change_nothing_are_left_out():
    search, _, _, (d, f, e, b), _ = searched(4096, 2048, 16e9, {"x": 4})
    assert search.plain(Layout({"x": (b, d, f, e)})).orders == {"x": (b, f)} or search.score(
        Layout({"x": (b, d, f, e)})
    ) != search.score(Layout({"x": (b, f)}))
    assert search.plain(Layout({"x": (99, b)})).orders == {"x": (b,)}
