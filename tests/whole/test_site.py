"""The documentation site: it builds without a warning, its examples run, its links lead somewhere, browsers show it.

Building needs the extra `docs`, looking needs a Chromium too; tests that lack either are skipped and say so.
"""

import contextlib
import doctest
import fcntl
import functools
import importlib.util
import inspect
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

import jax
import numpy as np
import pytest
import typer
from jax.experimental import sparse
from records import FRAMEWORKS, load

import jbdot
from jbdot.calls.front_door import DIALECTS, PLANNERS, public_name
from jbdot.command.cli import app

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = DOCS / "pages"
WITH_EXAMPLES = [path for path in sorted(PAGES.rglob("*.md")) if ">>> " in path.read_text()]
NEEDED = ("mkdocs", "material", "mkdocstrings", "mkdocstrings_handlers.python", "nbconvert")
PHONE, DESK = {"width": 390, "height": 844}, {"width": 1280, "height": 900}


def parts():
    """docs/parts.py, which makes the generated parts of pages."""
    spec = importlib.util.spec_from_file_location("parts", DOCS / "parts.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=lambda path: path.relative_to(PAGES).as_posix())
def test_examples_run(path, tmp_path, monkeypatch):
    monkeypatch.setenv("JBDOT_TUNED", str(tmp_path / "tuned.jsonl"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    jax.config.update("jax_traceback_filtering", "off")  # else JAX adds a note to its own messages
    try:
        found = doctest.testfile(str(path), module_relative=False)
    finally:
        jax.config.update("jax_traceback_filtering", "auto")
    assert found.attempted
    assert not found.failed


def test_commands_exist():
    command = typer.main.get_command(app)
    blocks = [
        block for path in PAGES.rglob("*.md") for block in re.findall(r"```sh\n(.*?)```", path.read_text(), re.DOTALL)
    ]
    shown = [line for block in blocks for line in block.splitlines() if line.startswith("jbdot ")]
    assert len(shown) > 5
    for line in shown:
        _, name, *words = line.split()
        known = {option for parameter in command.commands[name].params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known, line


def test_every_message_is_in_the_index():
    listed = re.findall(r"^\{\{ rule (.*) \}\}$", (PAGES / "reference" / "errors.md").read_text(), re.MULTILINE)
    raised = {rule.text for rule in parts().rules()}
    assert len(raised) > 100
    assert len(listed) == len(set(listed))
    assert set(listed) == raised


def test_messages_of_frameworks_are_in_the_records():
    page = (PAGES / "reference" / "framework-errors.md").read_text()
    known = {(name, record["id"]): record["status"] for name in FRAMEWORKS for record in load(name)}
    shown = re.findall(r"^\{\{ record (\w+) (\S+) \}\}$", page, re.MULTILINE)
    assert len(shown) > 30
    assert {known[record] for record in shown} == {"error"}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_cheat_sheet_is_what_the_functions_do(dialect):
    sheet = parts().cheat_sheet(dialect)
    tables = dict(re.findall(r"^\*\*\[`([\w.]+)`\].*\n\n((?:\|.*\n?)+)", sheet, re.MULTILINE))
    assert tables.keys() == {public_name(door) for door in PLANNERS if door.__module__ == f"jbdot.{dialect}"}
    calls, arrays, wanted = [], [], []
    for name, table in tables.items():
        function = functools.reduce(getattr, name.split("."), jbdot)
        rows = re.findall(r"^\| (\(.*?) \| `(.*?)` \| `(.*?)` \| (.*) \|$", table, re.MULTILINE)
        assert rows
        for call, labels, einsum, result in rows:
            lhs, rhs, given = eval(f"(lambda x, y, **given: (x, y, given))({call})")
            x, y = ((np.arange(math.prod(shape)) % 5.0).reshape(shape).astype(np.float32) for shape in (lhs, rhs))
            assert re.sub(r"[1 ]", "", labels) == einsum
            wanted.append(np.einsum(einsum, x, y).reshape(eval(result)))
            arrays.append((sparse.BCOO.fromdense(x) if "sparse" in name else x, y))
            equation = (given.pop("equation"),) if "equation" in given else ()
            if isinstance(function, type):
                calls.append(lambda *operands, layer=function, given=given: layer(**given)(operands))
            else:
                calls.append(functools.partial(function, *equation, **given))
    outs = jax.jit(lambda arrays: [call(*operands) for call, operands in zip(calls, arrays, strict=True)])(arrays)
    for out, expected in zip(outs, wanted, strict=True):
        np.testing.assert_array_equal(out, expected)


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """The folder of the built site: built once, by whichever worker comes first."""
    lacking = [name for name in NEEDED if importlib.util.find_spec(name.split(".")[0]) is None]
    if lacking:
        pytest.skip(f"the site is built with the extra docs, of which there is no {', '.join(lacking)}")
    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    with (folder / "site.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "site" / "sitemap.xml").exists():
            command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", DOCS / "mkdocs.yml"]
            environment = {**os.environ, "JAX_PLATFORMS": "cpu", "NO_MKDOCS_2_WARNING": "1"}
            built = subprocess.run(
                [*command, "-d", folder / "site"], capture_output=True, text=True, env=environment, check=False
            )
            assert built.returncode == 0, built.stderr
    return folder / "site"


class Page(HTMLParser):
    """What a page links to, what it loads, and what can be linked to in it."""

    def __init__(self, text):
        super().__init__()
        self.links, self.loads, self.ids = set(), set(), set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        """Notes the attributes that name something."""
        attrs = dict(attrs)
        self.ids |= {attrs[name] for name in ("id", "name") if attrs.get(name)}
        if tag == "a" and attrs.get("href"):
            self.links.add(attrs["href"])
        elif tag in ("img", "script", "link", "iframe", "source"):
            self.loads |= {attrs[name] for name in ("src", "href") if attrs.get(name)}


@functools.cache
def pages(site):
    return {path: Page(path.read_text()) for path in sorted(site.rglob("*.html"))}


def test_links_lead_somewhere(site):
    broken = []
    for path, page in pages(site).items():
        for link in page.links | page.loads:
            target, anchor = urldefrag(link)
            if re.match(r"(https?|mailto|data|javascript):", link) or path.name == "404.html":
                continue
            there = (path.parent / unquote(target)).resolve() if target else path
            anchors = pages(site)[there].ids if there in pages(site) else {anchor}
            if not there.is_file() or (anchor and unquote(anchor) not in anchors | {"__codelineno"}):
                broken.append(f"{path.relative_to(site)}: {link}")
    assert not broken


def test_nothing_is_fetched_from_elsewhere(site):
    loaded = {load for page in pages(site).values() for load in page.loads}
    assert not {load for load in loaded if re.match(r"(https?:)?//", load)}
    for style in site.rglob("*.css"):
        assert not re.search(r"(@import|url\()\s*['\"]?(https?:)?//", style.read_text()), style


def test_pages_do_not_say_where_they_were_built(site):
    places = str(ROOT), str(Path.home()), tempfile.gettempdir() + "/", str(Path(sys.executable).parent)
    for path in pages(site):
        text = re.sub(r"data:[^\"']*", "", path.read_text())
        assert not [place for place in places if len(place) > 1 and place in text], path


def test_every_public_name_is_in_the_reference(site):
    there = set().union(*(page.ids for path, page in pages(site).items() if "reference" in path.parts))
    names = {f"jbdot.{name}" for name in jbdot.__all__ if not inspect.ismodule(getattr(jbdot, name))}
    names = names - {"jbdot.dot", "jbdot.batch_dot", "jbdot.matmul"}  # they stand with their dialects
    names |= {f"jbdot.{public_name(door)}" for door in PLANNERS}
    assert names <= there
    index = (site / "reference" / "index.html").read_text()
    assert not [name for name in jbdot.__all__ if f"<code>{name}</code>" not in index]


def test_conformance_counts_every_record(site):
    text = (site / "reference" / "conformance.html").read_text()
    count = sum(len(load(name)) for name in FRAMEWORKS)
    assert f"In all {count:,} calls" in text
    for name in FRAMEWORKS:
        assert f"<code>{name}." in text


def test_notebooks_are_pages(site):
    for path in (ROOT / "colab").glob("*.ipynb"):
        assert (site / "notebooks" / f"{path.stem}.html").is_file()


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium."""
    playwright = pytest.importorskip("playwright.sync_api", reason="browsers are driven with playwright: extra docs")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("there is no Chromium to look at pages with: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        yield driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])


@contextlib.contextmanager
def tab(browser, **settings):
    """A tab without a network, and the list of what goes wrong in it."""
    context = browser.new_context(offline=True, viewport=PHONE, **settings)
    page, wrong = context.new_page(), []
    page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("requestfailed", lambda request: wrong.append(f"failed: {request.url}"))
    page.on(
        "request",
        lambda request: None if request.url.startswith(("file:", "data:", "blob:")) else wrong.append(request.url),
    )
    yield page, wrong
    context.close()


LOOK = """async () => {
  const wide = () => document.documentElement.scrollWidth - innerWidth
  for (let frame = 0; frame < 120 && wide() > 0; frame++)  // what moves away after a change of width
    await new Promise(requestAnimationFrame);
  return {
    title: document.title,
    wide: wide(),
    empty: [...document.images].filter(image => !image.complete || !image.naturalWidth).map(image => image.src)
  }
}"""


def test_browsers_show_every_page(site, browser):
    failed = {}
    with tab(browser) as (page, wrong):
        for path in pages(site):
            if path.name == "404.html":  # for servers: its addresses begin at the root
                continue
            page.set_viewport_size(PHONE)
            page.goto(path.as_uri())
            phone = page.evaluate(LOOK)
            page.set_viewport_size(DESK)
            found = [*wrong, *phone["empty"], *["no title"] * (not phone["title"])]
            found += [f"{phone['wide']} px too wide at 390"] * (phone["wide"] > 0)
            found += ["too wide at 1280"] * (page.evaluate(LOOK)["wide"] > 0)
            wrong.clear()
            if found:
                failed[path.relative_to(site).as_posix()] = found
    assert len(pages(site)) >= 40
    assert not failed


@pytest.mark.parametrize(
    ("query", "where", "entry"),
    [
        (
            "Can not do batch_dot on inputs with shapes (None, 10, 10, 16) and (None, 10, None, 16) with axes=[2, 3]. "
            "x.shape[2] != y.shape[3] (10 != None)",
            "framework-errors.html",
            "on inputs with shapes",
        ),
        ("the contracted axes must have equal sizes", "/errors.html", "the contracted axes must have equal sizes"),
        ("expand_dims", ".html", "expand_dims"),
    ],
)
def test_search_finds_messages(site, browser, query, where, entry):
    with tab(browser) as (page, wrong):
        page.goto((site / "index.html").as_uri())
        page.locator("label.md-header__button[for=__search]").click()
        page.locator(".md-search-result__meta", has_text="Type to start").wait_for(timeout=30_000)  # the index is read
        page.locator(".md-search__input").fill(query)  # as a message is pasted
        page.locator(".md-search__input").press("End")  # the theme looks when a key is let go
        links = page.locator(".md-search-result__link:visible")  # and not those under "more on this page"
        page.wait_for_function(
            "where => document.querySelector(`.md-search-result__link[href*='${where}']`)",
            arg=where,
        )
        found = links.evaluate_all("links => links.map(link => [link.href, link.innerText])")[:3]
        assert [text for href, text in found if where in href and entry in text]
        assert not wrong


SEEN = ("index", "reference/keras_tf1", "reference/errors", "notebooks/understanding_batch_dot", "explainer/index")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_are_accessible(site, browser, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe comes with the extra docs").Axe()
    found = {}
    with tab(browser, color_scheme=scheme) as (page, wrong):
        page.set_viewport_size(DESK)
        for name in SEEN:
            page.goto((site / f"{name}.html").as_uri())
            violations = axe.run(page, options={"preload": False}).response["violations"]  # it would fetch from file://
            found[name] = [(rule["id"], rule["nodes"][0]["target"]) for rule in violations]
    assert found == {name: [] for name in SEEN}
    assert not wrong


def test_copied_examples_are_code(site, browser):
    with tab(browser, permissions=["clipboard-read", "clipboard-write"]) as (page, wrong):
        page.goto((site / "index.html").as_uri())
        page.locator(".md-code__button").first.click()
        page.locator(".md-dialog--active").wait_for()  # which says that it was copied
        copied = page.evaluate("navigator.clipboard.readText()")
    lines = copied.splitlines()
    assert lines[:2] == ["import jax.numpy as jnp", "import jbdot"]
    assert not [line for line in lines if line.startswith((">>>", "...", "(", "'"))]
    compile(copied, "copied", "exec")
    assert not wrong


def test_no_metadata_of_pictures_is_searched(site):
    assert "image/svg+xml" not in next((site / "search").glob("search_index.js*")).read_text()
