"""Reads XLA's programs: how often each op runs, what it moves, and what it computes.

XLA's text of a program is a list of computations, each a list of instructions. Loops and calls name
the computations that they run.
"""

import re
from collections.abc import Iterator
from math import prod
from typing import NamedTuple

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) (?:\(.*\) -> .* )?\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*)$")
ARRAY = re.compile(r"([a-z]\w*)\[([\d,]*)\](\{[^}]*\})?")
_COLLECTIVE = re.compile(r"(all-reduce|all-gather|reduce-scatter|collective-permute|all-to-all)")
# Instructions that take no time, and custom calls of a TPU that only give memory a name.
_FREE = {
    *("parameter", "bitcast", "tuple", "get-tuple-element", "constant", "after-all", "iota"),
    *("partition-id", "replica-id", "add-dependency", "opt-barrier"),
}
_FREE_TARGETS = {"AllocateBuffer", "ConcatBitcast"}


class Instruction(NamedTuple):
    """An instruction of an optimized program.

    Attributes:
        name: unique in the program.
        result: the type of the result, with its layout.
        opcode: such as 'fusion'.
        text: everything behind the equals sign.
    """

    name: str
    result: str
    opcode: str
    text: str

    @property
    def op_name(self) -> str:
        """The path of names that JAX gave it, or ''."""
        return _first(r'op_name="([^"]*)"', self.text)

    @property
    def call_target(self) -> str:
        """The library function or kernel that a custom call runs, or ''."""
        return _first(r'custom_call_target="([^"]*)"', self.text)

    @property
    def operands(self) -> list[str]:
        """The names of its operands."""
        arguments = re.match(r"[\w\-]+\(([^()]*)\)", self.text[len(self.result) :].lstrip())
        return re.findall(r"%([\w.\-]+)", arguments[1]) if arguments else []

    @property
    def estimated_cycles(self) -> int | None:
        """The compiler's own estimate, on TPUs; None where it has none, as for Pallas kernels."""
        found = _first(r'"estimated_cycles":"?(\d+)', self.text)
        return int(found) if found else None


class Execution(NamedTuple):
    """An instruction and how often a program runs it.

    Attributes:
        instruction: the instruction.
        times: the product of the trip counts of the loops around it.
        trips: of the innermost loop; 1 outside.
        loops: the names of the loops around it, outermost first.
    """

    instruction: Instruction
    times: int
    trips: int
    loops: tuple[str, ...]


class Program:
    """A program in XLA's text format.

    Args:
        text: `compiled.as_text()`, or `lowered.as_text(dialect="hlo")`, which lacks operands.
    """

    def __init__(self, text: str):
        self.computations: dict[str, list[Instruction]] = {}
        self._entry = ""
        current: list[Instruction] | None = None
        for line in text.splitlines():
            if current is None:
                if head := _COMPUTATION.match(line):
                    current = self.computations.setdefault(head[2], [])
                    if head[1]:
                        self._entry = head[2]
            elif line.startswith("}"):
                current = None
            elif found := _INSTRUCTION.match(line):
                current.append(Instruction(found[1], *_split(found[2])))
        self._results = {
            instruction.name: instruction.result
            for instructions in self.computations.values()
            for instruction in instructions
        }

    def executions(self) -> Iterator[Execution]:
        """Yields the instructions that take time, those of loops and calls once each."""
        return self._run(self._entry, 1, 1, ())

    def _run(
        self, computation: str, times: int, trips: int, loops: tuple[str, ...]
    ) -> Iterator[Execution]:
        for instruction in self.computations[computation]:
            text = instruction.text
            if instruction.opcode in _FREE or instruction.call_target in _FREE_TARGETS:
                continue
            if instruction.opcode == "while":
                n = self._trips(instruction)
                body = _first(r"body=%?([\w.\-]+)", text)
                yield from self._run(body, times * n, n, (*loops, instruction.name))
            elif instruction.opcode == "call":
                yield from self._run(_first(r"to_apply=%?([\w.\-]+)", text), times, trips, loops)
            elif instruction.opcode == "conditional":
                branches = re.findall(
                    r"%?([\w.\-]+)", _first(r"branch_computations=\{(.*?)\}", text)
                )
                branches += re.findall(r"(?:true|false)_computation=%?([\w.\-]+)", text)
                longest = max(branches, key=lambda name: len(self.computations[name]))
                yield from self._run(longest, times, trips, loops)
            else:
                yield Execution(instruction, times, trips, loops)

    def _trips(self, loop: Instruction) -> int:
        """Returns how often a counted loop runs: XLA's account, or the bound of its condition."""
        if known := _first(r'"known_trip_count":\{"n":"(\d+)"\}', loop.text):
            return int(known)
        condition = self.computations[_first(r"condition=%?([\w.\-]+)", loop.text)]
        bounds = [_first(r"^s32\[\]\S* constant\((\d+)\)", i.text) for i in condition]
        return max((int(bound) for bound in bounds if bound), default=1)

    def fused(self, instruction: Instruction) -> list[Instruction]:
        """Returns the instructions that a fusion consists of; others alone."""
        called = _first(r"calls=%?([\w.\-]+)", instruction.text)
        if not called or called not in self.computations:
            return [instruction]
        return [part for each in self.computations[called] for part in self.fused(each)]

    def hbm_bytes(self, execution: Execution) -> float:
        """Returns the bytes that an execution reads and writes in main memory.

        Arrays in a TPU's vector memory have an S(1) in their layout. Of an array stacked over a
        loop's iterations each takes one slice. The start of an asynchronous copy of an array, or
        of a slice of it, counts all that the copy moves.
        """
        instruction = execution.instruction
        if instruction.opcode in ("copy-done", "slice-done"):
            return 0.0
        if instruction.opcode in ("copy-start", "slice-start"):
            ends = ARRAY.findall(instruction.result)[:2]  # source and destination
            in_hbm = sum("S(" not in layout for _, _, layout in ends)
            return in_hbm * min(array_bytes(dtype, shape) for dtype, shape, _ in ends)
        types = [
            instruction.result,
            *(self._results.get(name, "") for name in instruction.operands),
        ]
        sliced = {
            each
            for part in self.fused(instruction)
            if "dynamic-" in part.opcode
            for each in (without_layouts(part.result), *self.operand_types(part))
        }
        total = 0.0
        for dtype, shape, layout in ARRAY.findall(" ".join(types)):
            if "S(" in layout:
                continue
            size = array_bytes(dtype, shape)
            stacked = f"{dtype}[{shape}]" in sliced and shape.startswith(f"{execution.trips},")
            total += size / execution.trips if stacked else size
        return total

    def operand_types(self, instruction: Instruction) -> list[str]:
        """Returns the types of an instruction's operands, without layouts."""
        found = [self._results.get(name, "") for name in instruction.operands]
        return [without_layouts(result) for result in found]


def is_collective(execution: Execution) -> bool:
    """Returns whether an execution begins an exchange between devices.

    An asynchronous one begins with a fusion on TPUs; others then contain its steps beside their own
    work.
    """
    instruction = execution.instruction
    is_fusion = instruction.name.startswith("async-collective-start")
    return is_fusion or is_collective_opcode(instruction.opcode)


def is_collective_opcode(opcode: str) -> bool:
    """Returns whether an instruction with this opcode begins an exchange between devices."""
    return bool(_COLLECTIVE.match(opcode)) and not opcode.endswith("-done")


def collective_end(start: Execution, executions: list[Execution]) -> int | None:
    """Returns the index of the execution that an asynchronous exchange ends with, if it is one."""
    end_of_fusion = start.instruction.name.replace("-start", "-done")
    for index, each in enumerate(executions):
        name, operands = each.instruction.name, each.instruction.operands
        ends = each.instruction.opcode.endswith("-done") and start.instruction.name in operands
        if ends or (name == end_of_fusion != start.instruction.name):
            return index
    return None


def type_bytes(result: str) -> float:
    """Returns the size of a type, all elements of a tuple together."""
    return sum(array_bytes(dtype, shape) for dtype, shape, _ in ARRAY.findall(result))


def array_bytes(dtype: str, shape: str) -> float:
    """Returns the size of an array: 'bf16' and '12,1214' → 29136."""
    bits = int(re.search(r"\d+|$", dtype)[0] or 8)  # a pred has one byte
    return bits / 8 * prod(int(size) for size in shape.split(",") if size)


def without_layouts(types: str) -> str:
    """Returns types without their layouts: 'f32[8]{0:T(256)S(1)}' → 'f32[8]'."""
    return re.sub(r"\{[^}]*\}", "", types)


def _split(text: str) -> tuple[str, str, str]:
    """Returns an instruction's type, opcode and whole text."""
    end = text.index(" ")
    if text.startswith("("):  # a tuple
        end = depth = 0
        while not end or depth:
            depth += (text[end] == "(") - (text[end] == ")")
            end += 1
    return text[:end], _first(r"^\s*([\w\-]+)\(", text[end:]), text


def _first(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    return found[1] if found else ""
