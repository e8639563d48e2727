"""Reads the TPU compiler's schedules: how many instruction bundles an op or a Pallas kernel issues.

A core issues a bundle a clock unless it waits for memory. The files are written where libtpu is
told to by `dump_flags`.
"""

import re
from pathlib import Path
from typing import NamedTuple

_BUNDLE = re.compile(r"\s*(?:0x)?[0-9a-f]+\s*([A-Z]{2})?\s*:\s*((?:> ?)*)\s*\{")
_EXIT = re.compile(r"s32\.totalorder %\S+, (\d+) /\* loop exit test")


class Schedule(NamedTuple):
    """The instructions that an op issues, loops included.

    Attributes:
        bundles: instruction bundles.
        matmuls: instructions to the matrix units, of which a core has four.
    """

    bundles: int
    matmuls: int


class _Loop:
    """The bundles of a loop's body, or of the code outside loops."""

    def __init__(self) -> None:
        self.bundles = self.matmuls = 0
        self.trips = 1


def dump_flags(folder: Path) -> str:
    """Returns the flags, for LIBTPU_INIT_ARGS, that write final schedules into a folder."""
    return (
        f"--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true "
        "--xla_jf_dump_llo_pass_label_regex=final"
    )


def read_schedules(folder: Path) -> dict[str, Schedule]:
    """Returns the schedules that a compilation wrote into a folder, by the name of the op."""
    schedules = {}
    for path in sorted(folder.glob("*-final_bundles.txt")):
        found = re.fullmatch(r"\d+-(.+)-\d+-final_bundles\.txt", path.name)
        if found and not found[1].endswith("schedule-analysis"):
            schedules[found[1]] = parse_schedule(path.read_text())
    return schedules


def parse_schedule(text: str) -> Schedule:
    """Counts the bundles of a schedule. Those in a loop count once for each of its iterations."""
    stack = [_Loop()]

    def leave_loops(depth: int) -> None:
        while len(stack) - 1 > depth:
            inner = stack.pop()
            stack[-1].bundles += inner.trips * inner.bundles
            stack[-1].matmuls += inner.trips * inner.matmuls

    for line in text.splitlines():
        bundle = _BUNDLE.match(line)
        if not bundle:
            continue
        empty = line[bundle.end() :].startswith("}")  # and not marked with its depth
        depth = len(stack) - 1 if empty else bundle[2].count(">")
        leave_loops(depth)
        # A loop may follow another at once: it begins behind the other's exit test.
        if depth and bundle[1] in ("LH", "LB") and stack[-1].trips > 1:
            leave_loops(depth - 1)
        while len(stack) - 1 < depth:
            stack.append(_Loop())
        loop = stack[-1]
        loop.bundles += 1
        loop.matmuls += line.count("vmatmul")
        if test := _EXIT.search(line):
            loop.trips = int(test[1])
    leave_loops(0)
    return Schedule(stack[0].bundles, stack[0].matmuls)
