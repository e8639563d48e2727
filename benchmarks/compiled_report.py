"""Describes a compiled program: predicted times, float32 products, exchanges between devices."""

import re
from collections import Counter
from typing import NamedTuple

from chips import Chip
from common import table_header, table_row
from hlo import (
    Execution,
    Instruction,
    Program,
    collective_end,
    is_collective,
    is_collective_opcode,
    type_bytes,
    without_layouts,
)
from llo import Schedule

# Kernels that compute in one of so many steps of a grid; static schedules count all steps.
IDLE_STEPS = {"attention_backward": 3}

MOVES = {"copy", "transpose", "reshape", "pad", "slice", "concatenate", "bitcast", "reverse"} | {
    f"dynamic-{name}" for name in ("slice", "update-slice")
}
NO_WORK = {"parameter", "constant", "tuple", "get-tuple-element", "broadcast", "iota", "convert"}
GROUPS = ("attention", "products", "norms and activations", "copies", "other")


def describe(
    text: str, chip: Chip, schedules: dict[str, Schedule], flop: float, number: int
) -> list[str]:
    """Returns the lines that describe a program.

    Args:
        text: the optimized program.
        chip: the device's published figures.
        schedules: the schedules of its ops, on TPUs.
        flop: the FLOP of its products.
        number: how many of the largest ops to list.
    """
    program = Program(text)
    executions = list(program.executions())
    if chip.platform == "tpu":
        lines = time_tables(program, executions, chip, schedules, flop, number)
    else:
        lines = custom_call_table(executions)
    return [
        *lines,
        "",
        *float32_products(program, executions),
        "",
        *collectives(program, executions),
    ]


class Op(NamedTuple):
    """An execution with its predicted times over a whole step, in seconds.

    Attributes:
        execution: the op.
        group: one of `GROUPS`.
        estimate: the compiler's, or the schedule's for a Pallas kernel.
        floor: the larger of schedule and memory traffic.
    """

    execution: Execution
    group: str
    estimate: float
    floor: float


def time_tables(
    program: Program,
    executions: list[Execution],
    chip: Chip,
    schedules: dict[str, Schedule],
    flop: float,
    number: int,
) -> list[str]:
    """Returns tables of predicted times by group and of the largest ops."""
    # The compiler schedules one of equal ops, which unrolled layers have.
    by_kind = {
        _kind(program, each.instruction): schedules[each.instruction.name]
        for each in executions
        if each.instruction.name in schedules
    }

    def schedule_of(instruction: Instruction) -> Schedule:
        equal = by_kind.get(_kind(program, instruction), Schedule(0, 0))
        return schedules.get(instruction.name, equal)

    ops = [predict_times(program, each, chip, schedule_of(each.instruction)) for each in executions]
    total = sum(op.estimate for op in ops)
    lines = table_header("group", "estimate, ms", "floor, ms")
    for group in GROUPS:
        own = [op for op in ops if op.group == group]
        lines.append(table_row([group, *_milliseconds(own)]))
    lines.append(table_row(["all", *_milliseconds(ops)]))
    lines += ["", f"by the estimate {flop / total / chip.peak:.0%} of the peak", ""]
    lines += table_header("largest ops", "estimate, ms", "floor, ms", "times", "group", "computes")
    equal_ops: dict[tuple[str, ...], list[Op]] = {}
    for op in ops:
        kind = _kind(program, op.execution.instruction)
        equal_ops.setdefault((op.group, *kind), []).append(op)
    largest = sorted(equal_ops.values(), key=lambda own: -sum(op.estimate for op in own))
    for own in largest[:number]:
        instruction, times = own[0].execution.instruction, sum(op.execution.times for op in own)
        cells = [str(times), own[0].group, _description(instruction)]
        lines.append(table_row([instruction.name, *_milliseconds(own), *cells]))
    return lines


def _kind(program: Program, instruction: Instruction) -> tuple[str, ...]:
    """Returns what equal ops have in common, of which each unrolled layer contains one."""
    types = without_layouts(instruction.result), *program.operand_types(instruction)
    return instruction.opcode, _last_names(instruction), *types


def _description(instruction: Instruction) -> str:
    return f"{_last_names(instruction)} {without_layouts(instruction.result)[:60]}"


def _last_names(instruction: Instruction) -> str:
    return "/".join(instruction.op_name.split("/")[-2:])


def _milliseconds(ops: list[Op]) -> list[str]:
    return [
        f"{1e3 * sum(op.estimate for op in ops):.2f}",
        f"{1e3 * sum(op.floor for op in ops):.2f}",
    ]


def predict_times(program: Program, execution: Execution, chip: Chip, schedule: Schedule) -> Op:
    """Predicts how long an op takes on a TPU."""
    instruction = execution.instruction
    scheduled = max(schedule.bundles, chip.matmul_clocks * schedule.matmuls) / chip.clock
    if instruction.call_target == "tpu_custom_call":  # a kernel of ours, on all cores
        idle = [n for name, n in IDLE_STEPS.items() if name in instruction.name]
        scheduled /= chip.cores * (idle[0] if idle else 1)
    cycles = instruction.estimated_cycles
    estimate = scheduled if cycles is None else cycles / chip.clock
    exchanges = is_collective(execution) or "async-collective" in instruction.name
    traffic = 0.0 if exchanges else program.hbm_bytes(execution) / chip.bandwidth
    return Op(
        execution,
        group_of(program, execution),
        execution.times * estimate,
        execution.times * max(scheduled, traffic),
    )


def group_of(program: Program, execution: Execution) -> str:
    """Returns the group of `GROUPS` that an op belongs to, by its names and what is fused in it."""
    instruction = execution.instruction
    if "attention" in f"{instruction.name}{instruction.op_name}":
        return "attention"
    opcodes = {part.opcode for part in program.fused(instruction)} - NO_WORK
    if opcodes & {"convolution", "dot"}:
        return "products"
    if opcodes <= MOVES or instruction.opcode.startswith("copy"):
        return "copies"
    # JAX's name for what is inside of a layer, which need not be in a loop.
    in_a_layer = execution.loops or re.search("checkpoint|closed_call", instruction.op_name)
    return "norms and activations" if in_a_layer else "other"


def custom_call_table(executions: list[Execution]) -> list[str]:
    """Returns a table of the calls into libraries."""
    calls = Counter()
    for execution in executions:
        if target := execution.instruction.call_target:
            calls[target] += execution.times
    lines = table_header("library calls", "a step")
    return lines + [table_row([name, str(number)]) for name, number in calls.most_common()]


def float32_products(program: Program, executions: list[Execution]) -> list[str]:
    """Returns a table of the products that multiply float32."""
    found = Counter()
    for execution in executions:
        for part in program.fused(execution.instruction):
            types = program.operand_types(part)[:2]
            if _multiplies(part) and any(each.startswith("f32") for each in types):
                found[f"{' · '.join(types)} → {without_layouts(part.result)}"] += execution.times
    lines = table_header("float32 products", "a step")
    return lines + [table_row([name, str(number)]) for name, number in found.most_common()]


def _multiplies(instruction: Instruction) -> bool:
    return instruction.opcode in ("dot", "convolution") or "$matmul" in instruction.text


def collectives(program: Program, executions: list[Execution]) -> list[str]:
    """Returns a table of the exchanges between chips and of what overlaps them.

    MB are of the whole arrays on a chip, before they are scattered or after they are gathered.
    """
    lines = table_header("exchange", "MB", "times", "how", "where")
    rows = Counter()
    for index, execution in enumerate(executions):
        if not is_collective(execution):
            continue
        # The exchange of a fusion, which also returns the semaphores of those that go on with it.
        first = next(
            p for p in program.fused(execution.instruction) if is_collective_opcode(p.opcode)
        )
        following = executions[index + 1 :]
        end = collective_end(execution, following)
        how = "synchronous"
        if end is not None:
            beside = [program.fused(each.instruction) for each in following[:end]]
            products = sum(any(map(_multiplies, parts)) for parts in beside)
            how = f"asynchronous, beside {products or 'no'} products"
        kind = first.opcode.removesuffix("-start")
        size = f"{_exchanged_bytes(program, first) / 1e6:.1f}"
        where = "in a loop" if execution.loops else "outside loops"
        rows[kind, size, how, where] += execution.times
    return lines + [
        table_row([kind, size, str(times), how, where])
        for (kind, size, how, where), times in rows.items()
    ]


def _exchanged_bytes(program: Program, exchange: Instruction) -> float:
    """Returns the larger size of what an exchange takes and what it returns."""
    taken = sum(map(type_bytes, program.operand_types(exchange)))
    returned = type_bytes(exchange.result)
    if exchange.opcode.endswith("-start") and exchange.opcode != "all-reduce-start":
        returned -= taken  # their result begins with their operands
    return max(taken, returned)
