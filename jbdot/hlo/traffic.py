"""The collectives of a module: each with how often it runs, and where its arrays are from."""

import dataclasses
import functools
import re
from collections.abc import Iterator
from typing import Final

from jbdot.hlo.collective import KINDS, Collective, scattered, total, with_result
from jbdot.hlo.device_groups import groups_of, integers, listed, members, senders
from jbdot.hlo.instruction import Instruction, Unreadable, byte_count, plain
from jbdot.hlo.module import branches, parts
from jbdot.hlo.origins import Origin, Origins

PAIRS: Final = re.compile(r"\bsource_target_pairs=\{((?:\{[^}]*\},?)*)\}")
_ACROSS: Final = re.compile(
    r'_xla_megascale_target=(?:"\{(?P<slices>[\d,]+)\}x\{(?P<first>\d+):(?P<last>\d+)\}"|\{(?P<listed>.*?\})\}),'
    r'_xla_megascale_transfer_type="(?P<kind>\w+)"'
)
_TRANSFERS: Final = {
    "ALL_GATHER": "all-gather",
    "ALL_REDUCE": "all-reduce",
    "REDUCE_SCATTER": "reduce-scatter",
    "ALL_TO_ALL": "all-to-all",
    "RAGGED_ALL_TO_ALL": "ragged-all-to-all",
    "ONE_TO_ONE": "collective-permute",
}


class Traffic(Origins):
    """A module, and what is sent in it."""

    def __init__(self, text: str, open_trips: int | None = None) -> None:
        super().__init__(text)
        self.open_trips = open_trips
        self.collectives = functools.cache(self._collectives)

    def _collectives(self, name: str) -> list[Collective]:
        return [one for line in self.computations[name].values() for one in self._sent(name, line)]

    def _sent(self, caller: str, instruction: Instruction) -> list[Collective]:
        kind = instruction.opcode.removesuffix("-start")
        if kind in KINDS:
            is_apart = "async_collective_fusion_config" in instruction.attributes
            if is_apart and not self._is_start(caller, instruction):
                return []
            one = self._collective(kind, caller, instruction)
            origins = tuple(self._origins(kind, caller, instruction))
            return [dataclasses.replace(one, origins=origins, beside=is_apart or instruction.opcode != kind)]
        if instruction.opcode == "send":
            return self._across(caller, instruction)
        if instruction.opcode == "while":
            return self._looped(caller, instruction)
        if instruction.opcode == "conditional":
            return max(map(self.collectives, branches(instruction)), key=total)
        called = self._called(instruction)
        found = [one for name in called for one in self.collectives(name)]
        if any(name.startswith("all-reduce-scatter") for name in called):
            given = plain(self.computations[caller][instruction.operands[0]].shape)
            found = [scattered(one, byte_count(instruction.shape), given) for one in found]
        return [self._called_for(self.computations[caller], instruction, one) for one in found]

    def _called_for(self, body: dict[str, Instruction], call: Instruction, one: Collective) -> Collective:
        """Gives a collective that has no line the one of what calls it, and the name of the argument that is given."""
        op_name, frames = self.sources.of(call.attributes)
        if not frames and not all(origin.frames for origin in one.origins):
            reading, frames = self.reader(body, call.name)
            op_name = reading or op_name
        argument = self.argument(body, body[call.operands[0]]) if len(call.operands) == len(one.origins) == 1 else ""
        origins = (
            dataclasses.replace(
                each,
                op_name=each.op_name if each.frames else op_name,
                argument=each.argument or (argument if one.beside or not each.frames else ""),
                frames=each.frames or frames,
            )
            for each in one.origins
        )
        return dataclasses.replace(one, origins=tuple(origins))

    def _is_start(self, name: str, collective: Instruction) -> bool:
        """Says whether a collective beside a dot starts here: it stands in the dot's fusion and where it ends, too."""
        users = (line for line in self.computations[name].values() if collective.name in line.operands)
        return any('custom_call_target="AsyncCollectiveStart"' in user.attributes for user in users)

    def _looped(self, caller: str, loop: Instruction) -> list[Collective]:
        condition, body = map(self.collectives, parts(loop))
        if not condition and not body:
            return []
        try:
            trips, is_open = self.trips(caller, loop), False
        except Unreadable:
            if self.open_trips is None:
                raise
            trips, is_open = self.open_trips, True
        runs = [(one, trips + 1) for one in condition] + [(one, trips) for one in body]
        return [
            dataclasses.replace(one, times=one.times * times, is_open=one.is_open or is_open)
            for one, times in runs
            if times
        ]

    def _collective(self, kind: str, name: str, instruction: Instruction) -> Collective:
        operands = instruction.operands[:1] if kind == "ragged-all-to-all" else instruction.operands
        given = sum(byte_count(self.computations[name][operand].shape) for operand in operands)
        if kind != "collective-permute":
            group, groups = groups_of(instruction.attributes, self.devices)
            return with_result(kind, group, groups, given, (members(instruction.attributes, self.devices),))
        pairs = PAIRS.search(instruction.attributes)
        if not pairs or "slice_sizes=" in instruction.attributes:
            raise Unreadable(f"{instruction.name} has no pairs, or sends slices of its operands")
        return with_result(kind, senders(pairs[1], ","), 1, given, integers(pairs[1]))

    def _origins(self, kind: str, name: str, instruction: Instruction) -> Iterator[Origin]:
        """Says where each array of a collective is from: the parts of a tuple say it each for itself."""
        body, operands = self.computations[name], instruction.operands
        shapes = [body[operand].shape for operand in operands]
        if kind in ("all-to-all", "ragged-all-to-all") and len(operands) > 1:  # parts of one array
            pieces = shapes if kind == "all-to-all" else shapes[:1]
            count = f"{len(pieces)} x " if len(pieces) > 1 else ""
            yield self.origin(body, instruction, count + plain(shapes[0]), sum(map(byte_count, pieces)))
            return
        reading, end = self.end(instruction) or (name, None)
        for index, (operand, shape) in enumerate(zip(operands, shapes, strict=True)):
            part = self._part(body, instruction.name, index) if len(shapes) > 1 else None
            origin = self.origin(self.computations[reading], part or instruction, plain(shape), byte_count(shape), end)
            yield dataclasses.replace(origin, argument=self.argument(body, body[operand]))

    def _part(self, body: dict[str, Instruction], name: str, index: int) -> "Instruction | None":
        """Returns what takes an element out of a collective's result."""
        for line in body.values():
            if line.opcode == "get-tuple-element" and line.operands == [name] and line.index == index:
                return line if "op_name=" in line.attributes else None
        return None

    def _across(self, name: str, send: Instruction) -> list[Collective]:
        """Says what a slice sends to others, through the host; what the host itself is sent is no collective."""
        if "is_host_transfer=true" in send.attributes and "_xla_megascale_" not in send.attributes:
            return []
        found = _ACROSS.search(send.attributes)
        kind = _TRANSFERS.get(found["kind"]) if found else None
        if not found or not kind:
            raise Unreadable(f"{send.name} is no known transfer: {send.attributes[:200]}")
        if kind == "collective-permute":
            group, groups = senders(found["listed"], "->"), 1
        elif found["slices"]:
            group, groups = len(found["slices"].split(",")), int(found["last"]) - int(found["first"]) + 1
        else:
            group, groups = listed(found["listed"])
        given = byte_count(self.computations[name][send.operands[0]].shape)
        return [dataclasses.replace(with_result(kind, group, groups, given), across_slices=True)]
