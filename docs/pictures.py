"""Draws the pictures of plans that the site and README show.

    python docs/pictures.py

writes them beside it. Each file also holds in words what it shows (`Description`), by which a test sees when it is no
longer what jbdot says. Needs matplotlib: the extra `plot`.
"""

import functools
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
from jax.sharding import AbstractMesh, AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jbdot

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests"))
import steps  # noqa: E402

# A transformer of 32 layers: its features, heads, their features, hidden features, words, layers; samples and tokens.
STEP, PARAMS, BATCH = steps.transformer(4096, 32, 128, 11008, 32000, 32, 128, 4096)
POD = AbstractMesh((16, 16), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
FSDP_AND_TENSOR = {  # features over data; heads, hidden features and words over model
    "norm": P(None, "data"),
    **dict.fromkeys("qkv", P(None, "data", "model")),
    "o": P(None, "model", None, "data"),
    "up": P(None, "data", "model"),
    "down": P(None, "model", "data"),
}


def sharding_plan() -> Any:
    """Plans the contraction of how-to/shard.md."""
    mesh = AbstractMesh((4, 4), ("x", "y"))
    lhs, rhs = (
        jax.ShapeDtypeStruct((64, 1024, 1024), "bfloat16", sharding=NamedSharding(mesh, spec))
        for spec in (P(None, None, ("x", "y")), P(None, ("x", "y")))
    )
    return jbdot.plan_sharding("b m k, b k n -> b m n", lhs, rhs, P(("x", "y")), hardware="v5e")


def model_plan() -> Any:
    """Plans the transformer for 256 TPUs."""
    return jbdot.plan_program(STEP, POD, PARAMS, PARAMS, BATCH, hardware="v5e")


def model_sends() -> Any:
    """Says what plain jit sends of it, told a usual layout."""
    specs = {"layers": FSDP_AND_TENSOR, "embedding": P("model", "data"), "out": P("data", "model")}

    def placed(x: Any, spec: Any) -> Any:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(POD, spec))

    params = jax.tree.map(placed, PARAMS, specs)
    batch = jax.tree.map(functools.partial(placed, spec=P("data")), BATCH)
    out = jax.tree.map(lambda x: x.sharding, (params, params))
    step = jax.jit(STEP, out_shardings=(*out, None), donate_argnums=(0, 1))
    return jbdot.communication(step, params, params, batch, hardware="v5e", compiled=False)


PICTURES: dict[str, Callable[[], Any]] = {each.__name__: each for each in (sharding_plan, model_plan, model_sends)}


def description(shown: Any) -> str:
    """Says in words what a picture shows, without the lines of the source."""
    return re.sub(r"\.py:\d+", ".py", str(shown))


def main() -> None:
    """Draws all of them."""
    for name, make in PICTURES.items():
        shown = make()
        figure: Figure = shown.plot()
        figure.savefig(HERE / f"{name}.png", dpi=130, metadata={"Description": description(shown), "Software": None})
        print(f"{name}.png")


if __name__ == "__main__":
    main()
