"""Tables and paragraphs: no line is wider than 80 columns, and no word of them is lost."""

import random

import pytest

from jbdot.core import text


def words(rng, longest):
    return " ".join("x" * rng.randint(1, longest) for _ in range(rng.randint(0, 30)))


@pytest.mark.parametrize("seed", range(20))
def test_everything_fits_and_nothing_is_lost(seed):
    rng = random.Random(seed)
    columns = rng.randint(1, 10)
    rows = [[words(rng, rng.choice((3, 12, 100))) for _ in range(columns)] for _ in range(5)]
    below = [words(rng, 200) for _ in rows]
    lines = text.table(rows, below).splitlines()
    assert max(map(len, lines)) <= text.WIDTH
    assert "".join(lines).count("x") == str([rows, below]).count("x")
    paragraph = text.paragraph(below[0], rng.randint(0, 8)).splitlines()
    assert max(map(len, paragraph), default=0) <= text.WIDTH
    assert "".join("".join(paragraph).split()) == "".join(below[0].split())


def test_a_narrow_table_is_not_broken():
    assert text.table([("a", "b"), ("1", "2 3")]) == "  a  b\n  1  2 3"
    full = "x" * (text.WIDTH - 2)
    assert text.table([(full,)]) == f"  {full}"
    assert text.paragraph("x" * 80) == "x" * 80


def test_long_words_break_behind_commas_and_slashes():
    shape = f"float32[{','.join(['1048576'] * 12)}]"
    assert all(line.endswith(",") for line in text.paragraph(shape).splitlines()[:-1])
    assert text.wrapped("/home/someone/cache/tuned.jsonl", 16) == ["/home/someone/", "cache/", "tuned.jsonl"]
