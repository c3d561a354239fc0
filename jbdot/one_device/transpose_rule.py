"""What the gradients of a marked dot are summed to: JAX's own transpose rule, told another dtype.

lax's rule asks the backward dot for the dtype of the forward dot's result, and widens what comes to the operand's. Of
a float32 weight in a bfloat16 dot that is a gradient rounded to bfloat16: a relative error of 2.5e-3, for which
nothing is saved, as the sums are float32 in either case. `optimize(grad_dtype="operand")` marks a dot whose backward
dots are asked for the operand's own dtype. Without that mark the rule is told what it always was.
"""

from typing import Any

from jax import lax

from jbdot.one_device import jax_internals, mark


def _told(operand: Any, params: dict[str, Any]) -> dict[str, Any]:
    """Adds to the parameters of the dot that is differentiated the dtype that an operand's gradient is summed to."""
    result = params["preferred_element_type"]
    if result is None:  # then it is no narrower than either operand
        return params
    return {**params, "preferred_element_type": mark.grad_dtype(operand.dtype, result)}


def install() -> None:
    """Puts the rule before JAX's own."""
    jax_internals.tell_transposes(lax.dot_general_p, _told)
