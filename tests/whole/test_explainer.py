"""The explainer page answers as the library does: its trees, and the page in a real browser, offline, on a phone."""

import base64
import gzip
import importlib.util
import itertools
import json
import random
import re
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from explainer_calls import DOORS, as_typed, ends, explained, invented, library, recorded, walked

import jbdot
from jbdot.calls.front_door import DIALECTS

DOCS = Path(__file__).parents[2] / "docs"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="module")
def modules():
    sys.path.insert(0, str(DOCS))
    try:
        import explainer
        import trees
    finally:
        sys.path.remove(str(DOCS))
    return explainer, trees


@pytest.fixture(scope="module")
def page(modules, tmp_path_factory):
    path = tmp_path_factory.mktemp("explainer") / "index.html"
    modules[0].write(path)
    return path


@pytest.fixture(scope="module")
def table(page):
    packed = re.search(r'id="table">([^<]+)<', page.read_text())[1]
    return json.loads(gzip.decompress(base64.b64decode(packed)))


def test_trees_say_what_the_planners_say(table):
    calls = [*recorded(), *invented(table, 5_000, seed=1), *ends(table, 0.25, seed=2)]
    found = [(call, walked(table, *call)) for call in calls]
    wrong = {str(call): (text, library(*call)) for call, text in found if text not in (None, library(*call))}
    assert not wrong
    assert sum(text is not None for _, text in found) > 0.95 * len(calls)
    assert {call[0] for call, text in found if text is not None} == table["functions"].keys()


def test_equations_over_all_ranks(table):
    """Sizes are all alike, and all different."""
    for name, equation in itertools.product(("contract", "tensorflow.einsum"), table["equations"]):
        argument = "contraction" if name == "contract" else "equation"
        for ranks in itertools.product(range(6), repeat=2):
            for shapes in ([(2,) * rank for rank in ranks], [tuple(range(1, rank + 1)) for rank in ranks]):
                call = name, tuple(shapes), {argument: equation}
                assert walked(table, *call) == library(*call), call


def test_table_covers_every_function_and_form(table):
    left_out = {"dot_general"}
    assert table["functions"].keys() == DOORS.keys() - left_out
    assert table["left out"].keys() == left_out
    for name, function in table["functions"].items():
        for form, tree in function["trees"].items():
            assert [len(row) for row in tree] == [6] * 6, (name, form)
    assert len(table["presets"]) >= 15
    assert table["dialects"] == {name: dialect.framework for name, dialect in DIALECTS.items()}
    heading = re.search(r"^\| call \|.*$", (DOCS / "pages" / "index.md").read_text(), re.MULTILINE)[0]
    assert dict(re.findall(r"`(\w+)`: ([^|]+?) \|", heading)) == table["dialects"]  # and so says the home page


# What is unknown cannot be lost.


@pytest.mark.parametrize(
    "use",
    [
        lambda size: size < 3,
        lambda size: size - 1,
        lambda size: size // 2,
        lambda size: 7 % size,
        lambda size: -size,
        lambda size: (size + 1) * size,
        lambda size: size == "3",
        bool,
        int,
        float,
        range,
        hash,
        lambda size: [1, 2, 3][size],
        lambda size: np.zeros(3)[:size],
        lambda size: {size: 1},
    ],
)
def test_a_use_without_a_question_is_an_error(modules, use):
    _, trees = modules
    with pytest.raises(trees.NotTabulated):
        trees.Trees().grow(lambda run: repr(use(trees.Size(run, "x0"))))


def test_questions_are_those_that_do_not_follow(modules):
    _, trees = modules

    def planner(run):
        x0, x1, y0 = (trees.Size(run, name) for name in ("x0", "x1", "y0"))
        if x0 == 1 or x0 != y0:
            return "unequal"
        return [x0 == y0, y0 != 1, x0 != 1, x1 * x0 == x1 * x0, x1 == y0, x1 == x0, x1 == 1]

    grown = trees.Trees()
    root = grown.grow(planner)
    nodes = [json.loads(node) for node in grown.nodes]
    leaves = [node for node in nodes if node == "unequal" or isinstance(node[0], bool)]
    assert nodes[root][:3] == ["=", "x0", 1]
    assert leaves == ["unequal", [True] * 6 + [False], [True] * 4 + [False, False, True], [True] * 4 + [False] * 3]


def test_axes_are_asked_for_their_values(modules):
    _, trees = modules

    def planner(run):
        run.left["axes"] = tuple(range(-2, 3))
        axis = trees.Axis(run, "axes")
        assert isinstance(axis, int)
        if axis < 0:
            return "negative"
        return ["a", "b", "c"][axis]

    grown = trees.Trees()
    root = grown.grow(planner)
    nodes = [json.loads(node) for node in grown.nodes]
    sign, name, bound, negative, other = nodes[root]
    assert (sign, name, bound, nodes[negative]) == ("<", "axes", 0, "negative")
    assert nodes[other][:3] == ["#", "axes", [0, 1, 2]]
    assert [nodes[child] for child in nodes[other][3:]] == ["a", "b", "c"]


# The page, in a browser.


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None or importlib.util.find_spec("playwright") is None:
        pytest.skip("needs chromium (apt-get install chromium) and the package playwright")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def opened(browser, page):
    """Opens the page offline, at phone size unless told otherwise; what goes wrong in it fails the test."""
    contexts, troubles = [], []

    def open_page(hash_="", width=390, height=844, scheme="light"):
        context = browser.new_context(viewport={"width": width, "height": height}, offline=True, color_scheme=scheme)
        contexts.append(context)
        tab = context.new_page()
        tab.on("console", lambda message: troubles.append(message.text))
        tab.on("pageerror", lambda error: troubles.append(str(error)))
        tab.on(
            "request", lambda sent: troubles.append(sent.url) if not sent.url.startswith(("file:", "data:")) else None
        )
        tab.goto(page.as_uri() + hash_)
        tab.evaluate("window.ready")
        return tab

    yield open_page
    for context in contexts:
        context.close()
    assert not troubles


def test_page_answers_as_the_library(opened, table):
    calls = [*recorded(), *invented(table, 250, seed=3), *ends(table, 0.002, seed=4)]
    calls += [
        ("contract", ((2, 3, 4), (2, 4, 5)), {"contraction": "bij,bjk->bik"}),
        ("keras_tf1.batch_dot", ((10**6,) * 3, (10**6,) * 3), {}),  # beyond what a float counts exactly
        ("theano.dot", ((), ()), {}),
        ("keras_tf1.dot", ((1, 8), (8, 4)), {}),  # 64 FLOPs on 176 bytes
        ("keras_tf1.dot", ((2, 34), (34, 2)), {}),
    ]
    found = opened().evaluate(
        """calls => calls.map(call => {
            try { return explain(call); } catch (error) { if (error instanceof Beyond) return null; throw error; }
        })""",
        [as_typed(*call) for call in calls],
    )
    beyond = [call for call, answer in zip(calls, found, strict=True) if answer is None]
    assert len(beyond) < 0.05 * len(calls)
    for call, answer in zip(calls, found, strict=True):
        if answer is not None:
            told = explained(*call)
            others = [{key: other[key] for key in ("function", "text")} for other in answer["others"]]
            assert {key: {**answer, "others": others}.get(key) for key in told} == told, call


def test_ratios_are_rounded_as_python_rounds(opened):
    numbers = [0, 1, 0.5, 2.125, 2.135, 0.0001, 0.00001234, 999.5, 999.4, 1000, 123456, 1e-7, 17 / 8, 0.99951, 12.25]
    numbers += [random.Random(3).uniform(0, 10**power) for power in range(-6, 7)]
    assert opened().evaluate("numbers => numbers.map(general)", numbers) == [f"{number:.3g}" for number in numbers]


def test_presets_and_typing(opened, table):
    tab = opened(width=1200, height=900)
    for i, preset in enumerate(table["presets"]):
        tab.select_option("#preset", str(i))
        assert tab.input_value("#function") == preset["function"]
        assert not tab.text_content("#problem")
        assert tab.locator(".shape, .refusal").count() == 1
    tab.select_option("#function", "keras.batch_dot")
    tab.fill("#lhs", "(8, 10, 1152)")
    tab.fill("#rhs", "8x10x1152x16")
    tab.fill("#axes", "[2, 2]")
    assert tab.text_content(".shape") == "(8, 10, 10, 16)"
    assert tab.locator("svg rect").count() > 10
    assert tab.evaluate("location.hash") == "#keras.batch_dot&x=8x10x1152&y=8x10x1152x16&axes=[2,2]"
    tab.fill("#axes", "[2, 3]")
    assert tab.text_content(".refusal b") == "ValueError"
    tab.fill("#axes", "[2, 2")
    assert tab.text_content("#problem") == "axes: ']' is missing. Write 1, or 3,2, or [1,2],[0,1]."
    assert tab.get_attribute("#axes", "aria-invalid") == "true"
    tab.fill("#axes", "(2, 2)")
    tab.get_by_role("button", name="keras_tf1.batch_dot").click()
    assert tab.text_content(".shape") == "(8, 10, 16)"
    assert tab.evaluate("document.activeElement.id") == "function"


def test_address_brings_a_call_back(opened):
    tab = opened("#tensorflow.matmul&x=9x1x4x2&y=8x5x2&transpose_b")
    assert tab.text_content(".shape") == "(9, 8, 4, 5)"
    assert tab.is_checked("#transpose_b")
    tab.uncheck("#transpose_b")
    assert "the contracted axes must have equal sizes" in tab.text_content(".refusal")
    assert tab.evaluate("location.hash") == "#tensorflow.matmul&x=9x1x4x2&y=8x5x2"
    tab.evaluate("location.hash = '#keras.dot&x=%ff&y=2'")
    tab.wait_for_function("document.querySelector('#problem').textContent.includes('%ff')")
    tab.evaluate("location.hash = '#theano.dot&x=()&y=2x3'")
    tab.wait_for_function("document.querySelector('.shape')?.textContent === '(2, 3)'")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_has_all_of_it_in_its_width(opened, scheme):
    calls = "", "#keras.dot&x=1x2x3x4x5&y=9x8x7x5x6", "#theano.dot&x=1000000&y=1000000"
    calls += (
        "#keras.batch_dot&x=8x10x10x16&y=8x10x1152x16&axes=2,3",
        "#tensorflow.tensordot&x=2x6x5&y=3x4x5&axes=[0,1],[0,1]",
    )
    beside = """[...document.querySelectorAll('svg text, svg rect')].filter((drawn) => {
        const [inner, outer] = [drawn, drawn.ownerSVGElement].map((one) => one.getBoundingClientRect());
        return inner.left < outer.left || inner.right > outer.right || inner.bottom > outer.bottom;
    }).map((drawn) => drawn.outerHTML)"""
    backgrounds = set()
    for call in calls:
        tab = opened(call, scheme=scheme)
        assert tab.evaluate("document.documentElement.scrollWidth") <= 390
        assert tab.evaluate(beside) == []
        backgrounds.add(tab.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert backgrounds == {"rgb(255, 255, 255)" if scheme == "light" else "rgb(20, 23, 28)"}
    unnamed = "[...document.querySelectorAll('input, select')].filter(field => !field.labels.length).length"
    assert tab.evaluate(unnamed) == 0


def test_beyond_the_table_stands_the_command_that_answers(opened):
    from typer.testing import CliRunner

    from jbdot.command.cli import app

    tab = opened("#keras_tf1.dot&x=1x2x3x4x5x6&y=8x6x4")
    words = shlex.split(tab.text_content("#answer pre"))
    assert "a rank above 5" in tab.text_content("#answer")
    said = CliRunner().invoke(app, words[1:])
    assert words[0] == "jbdot"
    assert jbdot.explain(jbdot.dot, (1, 2, 3, 4, 5, 6), (8, 6, 4)).formula in said.output
    tab.select_option("#function", "tensorflow.tensordot")
    tab.fill("#axes", "[[-1], [-2]]")
    words = shlex.split(tab.text_content("#answer pre"))
    assert CliRunner().invoke(app, words[1:]).exit_code == 0
