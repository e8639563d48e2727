"""Tests `benchmarks/compiled_report.py` on programs in the compiler's format."""

from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def hlo(load_script):
    return load_script(BENCHMARKS / "hlo.py")


@pytest.fixture(scope="module")
def report(load_script):
    return load_script(BENCHMARKS / "compiled_report.py")


# Two layers, each with a kernel, a copy of the kernel's result, and two products of other widths.
LAYERS = """
ENTRY %main (x: bf16[8,512], w: bf16[512,512], y: bf16[8,64], v: bf16[64,512]) -> bf16[8,512] {
  %x = bf16[8,512]{1,0} parameter(0)
  %w = bf16[512,512]{1,0} parameter(1)
  %y = bf16[8,64]{1,0} parameter(2)
  %v = bf16[64,512]{1,0} parameter(3)
  %kernel.1 = bf16[8,512]{1,0} custom-call(%x), custom_call_target="tpu_custom_call"
  %copy.1 = bf16[8,512]{0,1} copy(%kernel.1)
  %wide.1 = bf16[8,512]{1,0} dot(%copy.1, %w)
  %narrow.1 = bf16[8,512]{1,0} dot(%y, %v)
  %kernel.2 = bf16[8,512]{1,0} custom-call(%wide.1), custom_call_target="tpu_custom_call"
  %copy.2 = bf16[8,512]{0,1} copy(%kernel.2)
  %wide.2 = bf16[8,512]{1,0} dot(%copy.2, %w)
  ROOT %narrow.2 = bf16[8,512]{1,0} dot(%y, %v)
}
"""


def test_only_equal_ops_share_a_row_and_a_schedule(hlo, report, load_script):
    program = hlo.Program(LAYERS)
    v5e = load_script(BENCHMARKS / "chips.py").CHIPS["v5e"]
    schedule = load_script(BENCHMARKS / "llo.py").Schedule(bundles=3 * 10**6, matmuls=0)
    schedules = {"kernel.1": schedule}
    lines = report.time_tables(program, list(program.executions()), v5e, schedules, 1.0, 10)
    rows = [line.strip("| ").split(" | ") for line in lines if "bf16[" in line]
    # The second kernel takes as long as the first, 2 ms; a copy of its result does not.
    assert {row[0]: (row[2], row[3]) for row in rows} == {
        "kernel.1": ("4.00", "2"),
        "copy.1": ("0.00", "2"),
        "wide.1": ("0.00", "2"),
        "narrow.1": ("0.00", "2"),
    }


def test_an_exchange_has_the_size_of_the_whole_array(hlo, report):
    program = hlo.Program("""
ENTRY %main (x: f32[1000000]) -> f32[1000000] {
  %x = f32[1000000]{0} parameter(0)
  %rs = ((f32[1000000]{0}), f32[500000]{0}, u32[]) reduce-scatter-start(%x), dimensions={0}
  %scattered = f32[500000]{0} reduce-scatter-done(%rs)
  %ag = (f32[500000]{0}, f32[1000000]{0}) all-gather-start(%scattered), dimensions={0}
  %gathered = f32[1000000]{0} all-gather-done(%ag)
  %ar = f32[1000000]{0} all-reduce-start(%gathered), to_apply=%add
  %reduced = f32[1000000]{0} all-reduce-done(%ar)
  ROOT %again = f32[500000]{0} reduce-scatter(%reduced), dimensions={0}
}
""")
    rows = report.collectives(program, list(program.executions()))[2:]
    assert [row.strip("| ").split(" | ")[:2] for row in rows] == [
        ["reduce-scatter", "4.0"],
        ["all-gather", "4.0"],
        ["all-reduce", "4.0"],
        ["reduce-scatter", "4.0"],
    ]
