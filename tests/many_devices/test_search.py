"""The search by bounds takes what looking at every way would take, and looks at few of them."""

import dataclasses
import math
import random

import pytest

from jbdot.core.contraction import Contraction
from jbdot.devices.links import Links
from jbdot.hardware import known
from jbdot.many_devices import candidates
from jbdot.many_devices.block import Block
from jbdot.many_devices.candidates import Ways
from jbdot.many_devices.cost import chosen, estimated
from jbdot.many_devices.search import CLOSE, Search, _total_us
from jbdot.many_devices.task import Task

SIZES = (2, 4, 6, 8, 8, 16, 15, 32, 64, 128, 512)


def drawn(seed, axes, labels=5):
    """A random contraction of so many labels, sharded at random on so many mesh axes, its result open now and then."""
    draw = random.Random(seed)
    sizes = {label: draw.choice(SIZES) for label in "abcdefg"[:labels]}
    roles = dict(zip(sizes, [*"mkn", *draw.choices("bmnk", k=labels)], strict=False))
    mesh = {axis: draw.choice((2, 2, 4)) for axis in "xyzw"[:axes]}
    sides = [[label for label in sizes if roles[label] in has] for has in ("bmk", "bkn", "bmn")]
    for side in sides:
        draw.shuffle(side)

    def sharding(labels):
        found = [[] for _ in labels]
        for axis in draw.sample(list(mesh), len(mesh)):
            at = draw.randrange(len(labels) + 1)
            if at < len(labels) and sizes[labels[at]] % math.prod(mesh[one] for one in (*found[at], axis)) == 0:
                found[at].append(axis)
        return tuple(map(tuple, found))

    lhs, rhs, out = sides
    dtype = draw.choice(("bfloat16", "float32"))
    left, right = (Block.of(tuple(map(sizes.get, side)), dtype, sharding(side), mesh) for side in (lhs, rhs))
    end = None if draw.random() < 0.2 else sharding(out)
    reduce = draw.choice((None, None, None, "all_reduce", "reduce_scatter"))
    c, shape = Contraction(tuple(lhs), tuple(rhs), tuple(out)), tuple(map(sizes.get, out))
    return Task(c, mesh, left, right, end, shape, dtype, "float32", reduce)


def links_of(task):
    return Links.of(task.mesh, known("TPU v5p" if len(task.mesh) > 2 else "TPU v5 lite"))


MACHINES = ("TPU v5p", "TPU v5 lite", "NVIDIA H100 80GB HBM3")


@pytest.mark.parametrize("seed", range(18))
def test_no_way_costs_less_than_its_bounds(seed):
    task = drawn(seed, 1 + seed % 3)
    ways, links = Ways(task), Links.of(task.mesh, known(MACHINES[seed // 3 % 3]))
    search = Search(ways, links)
    least = ways.drafts.us(links)
    together = _total_us(least, ways.drafts.touched)
    for draft in ways.drafts:
        for way in ways.of(draft):
            for (name, side), leg, us in zip(way.ways, draft.legs, least[draft.number], strict=False):
                assert side.sent >= leg.sent, (way.name, name)
                assert way.ring == name or search._us(side) >= us * CLOSE, (way.name, name)
            assert way.sent >= draft.sent, way.name
            assert estimated(way, task, links).total_us >= together[draft.number], way.name


def test_bounds_are_exact_where_a_route_only_slices_sums_exchanges_and_gathers():
    """That is what makes the search short: half of all routes and more."""
    task = drawn(3, 3)
    ways, links = Ways(task), links_of(task)
    search, least = Search(ways, links), ways.drafts.us(links)
    every = [(draft, way) for draft in ways.drafts for way in ways.of(draft) if way.ring is None]
    assert len(every) > 100
    for number, name in enumerate(("lhs", "rhs", "out")):
        exact = [
            draft.legs[number].sent == getattr(way, name).sent
            and search._us(getattr(way, name)) == pytest.approx(least[draft.number][number])
            for draft, way in every
        ]
        assert sum(exact) > len(exact) / 2, name


def exhaustive(ways, links):
    every = [(way, estimated(way, ways.task, links)) for draft in ways.drafts for way in ways.of(draft)]
    if ways.task.out is None:
        fewest = min(way.flops for way, _ in every)
        every = [pair for pair in every if pair[0].flops == fewest]
    return every


@pytest.mark.parametrize(("seed", "axes"), [*((seed, 3) for seed in range(12)), *((seed, 4) for seed in range(4))])
def test_the_way_that_is_taken_is_the_one_that_looking_at_all_takes(seed, axes):
    task = drawn(seed, axes)
    ways, links = Ways(task), links_of(task)
    every = exhaustive(ways, links)
    if not every:
        assert not Search(ways, links).sensible()
        return
    best, plain, is_plain = chosen(every, ways, links)
    found, as_plain, taken = chosen(Search(ways, links).sensible(), ways, links)
    assert (found[0][0].sent, found[0][1], found[0][0].flops) == (best[0][0].sent, best[0][1], best[0][0].flops)
    assert (as_plain, taken) == (plain, is_plain)


def test_few_routes_are_looked_at(monkeypatch):
    """Of a product of 512 million FLOPs on 4x4x4x2 chips, whose ways have thousands of routes."""
    looked = []
    route = candidates.route

    def counted(*arguments, **more):
        looked.append(arguments)
        return route(*arguments, **more)

    monkeypatch.setattr(candidates, "route", counted)
    mesh = {"x": 4, "y": 4, "z": 4, "w": 2}
    c = Contraction.parse("a b c d, c d e a -> a b e")
    lhs = Block.of((64, 512, 64, 128), "bfloat16", (("x",), (), ("y",), ("z",)), mesh)
    rhs = Block.of((64, 128, 512, 64), "bfloat16", (("y",), ("z",), ("w",), ()), mesh)
    task = Task(c, mesh, lhs, rhs, (("x",), ("y",), ("w",)), (64, 512, 512), "bfloat16", "bfloat16")
    ways, links = Ways(task), links_of(task)
    Search(ways, links).sensible()
    few = len(looked)
    assert few
    exhaustive(ways, links)
    assert few * 5 < len(looked)


def test_repeated_work_has_to_be_worth_it():
    """All on every device sends nothing but takes as long as one device: only for small products."""
    for size, repeats in ((64, True), (8192, False)):
        block = Block.of((size, size), "bfloat16", ((), ()), {"x": 4})
        task = Task(
            Contraction.parse("m k, k n -> m n"), {"x": 4}, block, block, ((), ()), (size, size), "bfloat16", "bfloat16"
        )
        ways, links = Ways(task), links_of(task)
        found, plain, is_plain = chosen(Search(ways, links).sensible(), ways, links)
        assert (found[0][0].flops == task.flops) == repeats
        assert is_plain == repeats
        assert plain[0].flops == task.flops
        own = Search(ways, links).sensible(redundant=False)
        assert own
        assert all(way.flops * 4 == task.flops for way, _ in own)
        silent = Search(ways, links).sensible(silent=True)
        assert silent
        assert not any(way.sent for way, _ in silent)
    prime = dataclasses.replace(
        task,
        lhs=Block.of((3, 5), "bfloat16", ((), ()), {"x": 4}),
        rhs=Block.of((5, 7), "bfloat16", ((), ()), {"x": 4}),
        shape=(3, 7),
    )
    assert not Search(Ways(prime), links).sensible(redundant=False)
    assert Search(Ways(prime), links).sensible()
