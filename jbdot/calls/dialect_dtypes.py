"""What several dialects share: which dtypes a product takes."""

import dataclasses
from typing import Final

from jbdot.core.errors import BadType, BadValue, Refusal
from jbdot.one_device.call_plan import AS_IS, Operand, OperandSteps


class Dtypes:
    """The dtypes that one op of a framework multiplies.

    Args:
        allowed: Their names, with spaces between.
        refusal: What the framework raises for another dtype, and for two that differ.
        no_kernel: Names that the op's definition allows, and that no kernel computes.
        no_square: Names that an earlier step refuses with an error of the framework's own.
    """

    def __init__(
        self, allowed: str, refusal: type[Refusal] = BadType, no_kernel: str = "", no_square: str = ""
    ) -> None:
        self.allowed, self.refusal = allowed.split(), refusal
        self.no_kernel, self.no_square = no_kernel.split(), no_square.split()

    def check(self, x: Operand, y: Operand) -> None:
        """Refuses operands that the op does not take."""
        for operand in (x, y):
            if operand.dtype.name not in self.allowed:
                refusal = BadValue if operand.dtype.name in self.no_square else self.refusal
                raise refusal(
                    f"the dtype must be one that the framework multiplies here, of {', '.join(self.allowed)}",
                    f"{operand.name} is {operand.dtype.name}",
                    "Cast it first",
                )
        if x.dtype != y.dtype:
            raise self.refusal(
                "both operands must have one dtype",
                f"{x.name} is {x.dtype.name}, {y.name} is {y.dtype.name}",
                "Cast one of them first",
            )

    def check_kernel(self, x: Operand) -> None:
        """Refuses a dtype that the framework could name and not compute."""
        if x.dtype.name in self.no_kernel:
            raise BadValue(
                "the framework must have a kernel for the dtype",
                f"there was none for {x.dtype.name}",
                "Cast to float32 first",
            )


@dataclasses.dataclass(frozen=True)
class TensorFlow:
    """The dtypes of one TensorFlow's products on CPU."""

    matmul: Dtypes
    batch_matmul: Dtypes
    sparse: Dtypes
    sparse_operand: type[Refusal]

    def enter_matmul(self, x: Operand, y: Operand) -> tuple[OperandSteps, OperandSteps]:
        """Checks the dtypes of a product of two matrices; bfloat16 with float32 multiplies in float32."""
        if {x.dtype.name, y.dtype.name} == {"bfloat16", "float32"}:
            lhs, rhs = (OperandSteps("float32") if operand.dtype.name == "bfloat16" else AS_IS for operand in (x, y))
            return lhs, rhs
        self.matmul.check(x, y)
        return AS_IS, AS_IS


# What every TensorFlow multiplies; and what the CPU kernels of TensorFlow 2.21 do, which answers
# anything else with an error of its own.
NUMBERS: Final = "bfloat16 float16 float32 float64 int32 int64 complex64 complex128"
TENSORFLOW_2: Final = TensorFlow(
    matmul=Dtypes(NUMBERS, BadValue),
    batch_matmul=Dtypes(f"{NUMBERS} int16", BadValue),
    sparse=Dtypes("bfloat16 float16 float32 float64 int32 complex64 complex128", BadValue),
    sparse_operand=BadValue,
)
