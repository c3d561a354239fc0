"""The package jbdot-native, where it is installed: products by SciPy's BLAS, called from XLA's own threads."""

import functools
import importlib
import importlib.util
from typing import Any, Final

import jax
from jax import numpy as jnp

from jbdot.one_device.dot_spec import DotSpec

NEEDS: Final = (
    "needs operands and a result of one dtype, float32, float64, complex64 or complex128, and the package "
    "jbdot-native: `pip install ./native` in jbdot's repository, and `jbdot doctor` says whether it works"
)
_DTYPES: Final = ("float32", "float64", "complex64", "complex128")


@functools.cache
def package() -> Any:
    """Returns the package; None where it is not installed."""
    return importlib.import_module("jbdot_native") if importlib.util.find_spec("jbdot_native") else None


def text() -> str:
    """Says whether it is here, for `jbdot doctor`."""
    if package() is None:
        return 'not installed: no lowering "blas"'
    return f"installed, but of no use: {package().problem()}" if package().problem() else 'lowering "blas" on CPUs'


def fits(spec: DotSpec) -> bool:
    """Says whether the package carries a dot out."""
    if spec.lhs_dtype not in _DTYPES or package() is None:
        return False
    lhs, rhs = (
        jax.ShapeDtypeStruct(shape, jnp.dtype(dtype))
        for shape, dtype in ((spec.lhs, spec.lhs_dtype), (spec.rhs, spec.rhs_dtype))
    )
    return package().fits(lhs, rhs, jnp.dtype(spec.dtype))
