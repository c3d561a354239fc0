"""MkDocs hooks: what the site shows and nobody wrote twice is made here, when it is built.

- Whole pages: the changelog, CONTRIBUTING, the benchmark reports, the notebooks, the explainer, and their pictures.
- Parts of pages: a line `{{ name argument }}` becomes what `parts.name("argument")` writes.
"""

import os
import posixpath
import re
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JUPYTER_PLATFORM_DIRS", "1")  # or nbconvert's first import warns

import explainer
import nbconvert
import parts
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
TEXTS = {  # pages that are the repository's own files
    "changelog.md": ROOT / "CHANGELOG.md",
    "contributing.md": ROOT / "CONTRIBUTING.md",
    **{f"benchmarks/{path.name}": path for path in sorted((ROOT / "benchmarks" / "results").glob("*.md"))},
}
PICTURES = {
    **{f"assets/{path.name}": path for path in (ROOT / "docs").glob("*.png")},
    **{f"benchmarks/{path.name}": path for path in (ROOT / "benchmarks" / "results").glob("*.png")},
}
NOTEBOOKS = {f"notebooks/{path.stem}.md": path for path in parts.NOTEBOOKS}
MOVED = (  # where the site has what the repository's texts link to
    ("benchmarks/results/", "benchmarks/"),
    ("docs/", "assets/"),
    ("CONTRIBUTING.md", "contributing.md"),
    ("CHANGELOG.md", "changelog.md"),
    ("README.md", "index.md"),
)
REPORT = "---\nsearch:\n  boost: 0.2\nhide: [toc]\n---\n\n"


def on_config(config: Any) -> Any:
    """Names the version, and puts the generated pages into the navigation for `notebooks/*` and `benchmarks/*`."""
    config.copyright = f"jbdot {version('jbdot')}, Apache-2.0"
    reports = [name for name in TEXTS if name.startswith("benchmarks/")]
    found = {"notebooks/*": [*NOTEBOOKS], "benchmarks/*": [{_title(Path(name).stem): name} for name in reports]}
    for section in config.nav:
        for title, pages in section.items():
            if isinstance(pages, list):
                section[title] = [name for page in pages for name in found.get(str(page), [page])]
    return config


def _title(report: str) -> str:
    return {"report": "One device"}.get(report, report.replace("-jax-", ", jax ").capitalize())


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages and pictures that stand elsewhere in the repository."""
    for name, path in PICTURES.items():
        files.append(File.generated(config, name, abs_src_path=str(path)))
    for name, path in TEXTS.items():
        text = mended(path.read_text(), name, path.parent.relative_to(ROOT).as_posix())
        files.append(File.generated(config, name, content=REPORT * name.startswith("benchmarks/") + text))
    for path in NOTEBOOKS.values():
        for made, content in notebook(path).items():
            files.append(File.generated(config, posixpath.join("notebooks", made), content=content))
    files.append(File.generated(config, "explainer/index.html", content=explainer_page()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Fills in the parts that a page asks for, and leaves out what only doctest reads."""

    def part(line: re.Match[str]) -> str:
        return mended(getattr(parts, line[1])(line[2].strip()), page.file.src_uri)

    markdown = re.sub(r"^\{\{ (\w+)(.*) \}\}$", part, markdown, flags=re.MULTILINE)
    markdown = re.sub(r" *# doctest: .*$", "", markdown, flags=re.MULTILINE)
    return markdown.replace("<BLANKLINE>", "")


def mended(text: str, page: str, folder: str = ".") -> str:
    """Turns links of the repository's texts into links of the site, as seen from a page."""

    def link(found: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, found[2]))
        for there, here in MOVED:
            if target.startswith(there):
                target = here + target.removeprefix(there)
                return f"{found[1]}{posixpath.relpath(target, posixpath.dirname(page) or '.')}{found[3]}"
        return found[0]

    return re.sub(r"(\]\()([\w./-]+\.\w+)(\))", link, text)


def explainer_page() -> str:
    """The explainer, which is one page on its own and writes itself to a file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "index.html"
        explainer.write(path)
        return path.read_text()


def notebook(path: Path) -> dict[str, str | bytes]:
    """Writes a stored notebook as a page, with its outputs and pictures, and the file itself to download."""
    resources = {"unique_key": path.stem, "output_files_dir": f"{path.stem}_files"}
    body, made = nbconvert.MarkdownExporter().from_filename(str(path), resources)
    body = re.sub(r"\]\((\w+)\.ipynb\)", r"](\1.md)", body)
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)  # of SVG: a search would find it
    body = re.sub(r"^(# .*\n)", rf"\1\n[Download this notebook]({path.name})\n", body, count=1, flags=re.MULTILINE)
    page = mended(body, f"notebooks/{path.stem}.md", "colab")
    return {f"{path.stem}.md": page, path.name: path.read_bytes(), **made["outputs"]}
