"""The compiled library, given the routines of SciPy's BLAS by address, and registered with XLA."""

import ctypes
import functools
import re
import sys
from pathlib import Path
from typing import Any, Final

import jax

TARGET: Final = "jbdot_native_dot"
_ROUTINES: Final = [letter + name for letter in "sdcz" for name in ("gemm", "gemv")]
_THREADS: Final = re.compile(r"(\w*openblas)_set_num_threads(64_)?")


@functools.cache
def problem() -> str:
    """Says why SciPy's BLAS cannot be called here; nothing where it can.

    Example:
        >>> problem()
        ''
    """
    try:
        _register()
    except (AttributeError, ImportError, KeyError, OSError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def openblas() -> ctypes.CDLL:
    """Opens the module through which SciPy gives its BLAS away, and with it the OpenBLAS that it is linked to."""
    from scipy.linalg import cython_blas

    return ctypes.CDLL(cython_blas.__file__)


def threads() -> tuple[Any, Any]:
    """Returns what gets and what sets the number of OpenBLAS' threads.

    Raises:
        AttributeError: SciPy's BLAS is another than OpenBLAS, or goes by names that are not known here.
    """
    library = openblas()
    for prefix, suffix in (("scipy_", ""), ("", ""), ("scipy_", "64_"), ("", "64_")):
        names = (f"{prefix}openblas_{verb}_num_threads{suffix}" for verb in ("get", "set"))
        found = [getattr(library, name, None) for name in names]
        if None not in found:
            return found[0], found[1]
    raise AttributeError("SciPy's BLAS is no OpenBLAS whose number of threads can be set")


def here() -> tuple[int, int]:
    """Reads the version of XLA's FFI off the headers that come with this JAX."""
    text = (Path(jax.ffi.include_dir()) / "xla/ffi/api/c_api.h").read_text()
    major, minor = (re.search(rf"#define XLA_FFI_API_{part} (\d+)", text) for part in ("MAJOR", "MINOR"))
    if major is None or minor is None:
        raise ValueError("the headers of this JAX do not say which version of XLA's FFI it has")
    return int(major[1]), int(minor[1])


def check_version(built_for: tuple[int, ...], here: tuple[int, int]) -> None:
    """Checks that this JAX takes the library: one that it refuses would keep its CPU backend from starting.

    Raises:
        ImportError: The library was built for a newer version of XLA's FFI, or for one that is quite another.
    """
    if built_for[0] != here[0] or built_for[1] > here[1]:
        versions = [".".join(map(str, version)) for version in (built_for, here)]
        raise ImportError(
            f"jbdot-native was built for version {versions[0]} of XLA's FFI, and this JAX has {versions[1]}; "
            "build it again beside this JAX: pip install --no-build-isolation ./native"
        )


def _register() -> None:
    from scipy.linalg import cython_blas

    get, set_ = threads()
    addresses = [_address(cython_blas.__pyx_capi__[name]) for name in _ROUTINES]
    addresses += [ctypes.cast(function, ctypes.c_void_p).value for function in (get, set_)]
    suffix = {"win32": ".dll"}.get(sys.platform, ".so")
    library = ctypes.CDLL(str(Path(__file__).with_name(f"blas{suffix}")))
    built_for = (ctypes.c_int * 2)()
    library.jbdot_native_api(built_for)
    check_version(tuple(built_for), here())
    library.jbdot_native_link((ctypes.c_void_p * len(addresses))(*addresses))
    jax.ffi.register_ffi_target(TARGET, jax.ffi.pycapsule(library.jbdot_native_dot), platform="cpu")


def _address(capsule: Any) -> int:
    """Returns a routine's address, if its integers are of 32 bits."""
    api = ctypes.pythonapi
    name = ctypes.PYFUNCTYPE(ctypes.c_char_p, ctypes.py_object)(("PyCapsule_GetName", api))(capsule)
    if not name.startswith(b"void (char *, ") or b" int *" not in name:
        raise ValueError(f"SciPy's BLAS has other integers than are known here: {name.decode()}")
    pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(("PyCapsule_GetPointer", api))
    return pointer(capsule, name)
