"""What an instruction costs: FLOPs of a dot, and cycles that the TPU compiler estimates."""

import math
import re
from typing import Final

from jbdot.hlo.instruction import Instruction, NoEstimate, Unreadable, sizes_of, tiled_bytes

_ESTIMATE: Final = re.compile(r'"estimated_cycles":"(\d+)"')
_ELSEWHERE: Final = re.compile(r'custom_call_target="(__cu|__onednn|tpu_custom_call|triton)')
_CONTRACTED: Final = re.compile(r"\blhs_contracting_dims=\{([\d,]*)\}")
_LABELS: Final = re.compile(r"\bdim_labels=(\w+)_(\w+)->(\w+)")
_WINDOW: Final = re.compile(r"\bwindow=\{([^}]*)\}")


def estimate(body: dict[str, Instruction], instruction: Instruction, bytes_a_cycle: float = math.inf) -> int | None:
    """Reads the cycles that the compiler estimates, of a new layout no fewer than moving it takes; None without any."""
    found = _read(instruction)
    if instruction.opcode not in ("copy", "reshape") or math.isinf(bytes_a_cycle):
        return found
    moved = tiled_bytes(instruction.shape) + sum(tiled_bytes(body[name].shape) for name in instruction.operands)
    return max(found or 0, round(moved / bytes_a_cycle))


def _read(instruction: Instruction) -> int | None:
    found = _ESTIMATE.search(instruction.attributes)
    if found and int(found[1]) >= 1 << 63:
        raise NoEstimate(f"the compiler estimates {int(found[1]) - (1 << 64)} cycles")
    if found and int(found[1]) == (1 << 63) - 1:
        raise NoEstimate("the compiler estimates the most cycles that there can be")
    return int(found[1]) if found else None


def flops(body: dict[str, Instruction], instruction: Instruction) -> int | None:
    """Counts the FLOPs of a dot or a convolution; None of any other instruction."""
    if _ELSEWHERE.search(instruction.attributes):
        raise Unreadable(f"{instruction.name} is computed elsewhere")
    if instruction.opcode not in ("dot", "convolution"):
        return None
    lhs, rhs = (sizes_of(body[operand].shape) for operand in instruction.operands)
    out = sizes_of(instruction.shape)
    if found := _CONTRACTED.search(instruction.attributes):
        return 2 * math.prod(out) * math.prod(lhs[int(dim)] for dim in found[1].split(",") if dim)
    found = _LABELS.search(instruction.attributes)
    if not found:
        raise Unreadable(f"{instruction.name} does not say what it sums")
    left, right, made = (dict(zip(*pair, strict=True)) for pair in zip(found.groups(), (lhs, rhs, out), strict=True))
    return 2 * made["b"] * made["f"] * right["i"] * _products(left, right, made, instruction.attributes)


def _products(lhs: dict[str, int], rhs: dict[str, int], out: dict[str, int], attributes: str) -> int:
    """Counts the products that a convolution sums along its windows: padding and gaps give none."""
    found = _WINDOW.search(attributes)
    window = dict(pair.split("=") for pair in found[1].split()) if found else {}
    total = 1
    for dim in sorted(label for label in rhs if label.isdigit()):
        each = {name: values.split("x")[int(dim)] for name, values in window.items()}
        if int(each.get("rhs_dilate", 1)) != 1:
            raise Unreadable("a window has gaps")
        stride, gap, pad = (
            int(each.get("stride", 1)),
            int(each.get("lhs_dilate", 1)),
            int(each.get("pad", "0").split("_")[0]),
        )
        starts = (place * stride - pad for place in range(out[dim]))
        last = (lhs[dim] - 1) * gap
        total *= sum(max(0, min(start + rhs[dim] - 1, last) // gap - -(-max(start, 0) // gap) + 1) for start in starts)
    return total
