"""What editors and type checkers are told of names and words is what there is."""

import pkgutil
import re
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Literal, get_args, get_origin

import pytest
from jax import lax

import jbdot
from jbdot.calls.front_door import DIALECTS, PLANNERS
from jbdot.one_device.choice import NAMES
from jbdot.one_device.dot_spec import PrecisionLike, known_precision
from jbdot.one_device.lowerings import LoweringName


def test_lowerings():
    assert get_args(LoweringName) == NAMES


def test_precisions():
    words = [word for part in get_args(PrecisionLike) if get_origin(part) is Literal for word in get_args(part)]
    assert {known_precision(word) for word in words} == {*lax.Precision, *lax.DotAlgorithmPreset}
    assert {*lax.DotAlgorithmPreset.__members__} <= {*words}


def test_a_prompt_offers_the_products_alone():
    for name, dialect in DIALECTS.items():
        module = getattr(jbdot, name)
        products = {door.__qualname__ for door in PLANNERS if door.__module__ == module.__name__}
        products = {product.split(".")[0] for product in products}  # of a namespace its own name
        more = {"addbmm", "addmm", "addmv", "baddbmm", "bilinear", "multi_dot"} if name == "torch" else set()
        namespaces = {each for each in dir(module) if isinstance(getattr(module, each), ModuleType)}
        assert dir(module) == sorted(module.__all__) == sorted(products | more | namespaces)
        assert dialect.module is module
    assert dir(jbdot) == sorted([*jbdot.__all__, "__version__"])


def test_the_version():
    assert jbdot.__version__ == version("jbdot")
    assert "__version__" not in vars(jbdot)  # an import does not look it up
    with pytest.raises(AttributeError, match="module 'jbdot' has no attribute 'batchdot'"):
        _ = jbdot.batchdot


def test_the_reference_names_what_exists():
    pages = sorted((Path(__file__).parents[2] / "docs" / "pages" / "reference").glob("*.md"))
    named = [name for page in pages for name in re.findall(r"^::: (\S+)", page.read_text(), re.MULTILINE)]
    assert len(named) > 30
    for name in named:
        assert pkgutil.resolve_name(name) is not None
