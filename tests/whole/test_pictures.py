"""The pictures of plans that the site and README show: drawn by docs/pictures.py, of what jbdot says today."""

import importlib.util
import re
import struct
import zlib
from pathlib import Path

import jax
import pytest

DOCS = Path(__file__).parents[2] / "docs"
_spec = importlib.util.spec_from_file_location("pictures", DOCS / "pictures.py")
pictures = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(pictures)


def described(path):
    """Reads what a picture says that it shows: the text of a PNG file."""
    content, at = path.read_bytes(), 8
    while at < len(content):
        length, kind = struct.unpack(">I4s", content[at : at + 8])
        data = content[at + 8 : at + 8 + length]
        if kind in (b"tEXt", b"zTXt", b"iTXt") and data.startswith(b"Description\0"):
            rest = data.partition(b"\0")[2]
            return (zlib.decompress(rest[1:]) if kind == b"zTXt" else rest.lstrip(b"\0")).decode("utf-8", "replace")
        at += 12 + length
    raise AssertionError(f"{path.name} does not say what it shows")


@pytest.mark.parametrize("name", pictures.PICTURES)
def test_a_picture_shows_what_is_said_today(name):
    """Its first words; of bytes and times, which follow every change of an estimate, that they are near."""
    if jax.__version_info__ < (0, 12):
        pytest.skip("the pictures are of the newest jax")
    now = pictures.description(pictures.PICTURES[name]())
    before = described(DOCS / f"{name}.png")
    number = re.compile(r"\d[\d,.]*")
    ours, theirs = (" ".join(text.split("\n\n")[0].split()) for text in (now, before))
    assert number.sub("#", ours) == number.sub("#", theirs), "draw it anew: python docs/pictures.py"
    for one, other in zip(number.findall(ours), number.findall(theirs), strict=True):
        assert float(one.strip(",.").replace(",", "")) == pytest.approx(
            float(other.strip(",.").replace(",", "")), rel=0.25
        )


def test_each_is_shown_somewhere():
    texts = "".join(path.read_text() for path in [*(DOCS / "pages").rglob("*.md"), DOCS.parent / "README.md"])
    assert all(f"/{name}.png" in texts for name in pictures.PICTURES)
