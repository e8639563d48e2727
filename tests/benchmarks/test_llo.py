"""Tests `benchmarks/llo.py` on a schedule in the compiler's format."""

from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "llo.py"

# Two bundles, a loop of ten times three with one product, and another of five times two.
TEXT = """
= control target key start
LH: loop header
= control target key end

     0   :  { %s1 = smov 0 }
   0x1   :  {}
   0x2 LB: > { %v2 = vmatmul.bf16.gmra.mxu0 %v1 }
   0x3   :  {}
   0x4   : > { %p3 = scmp.ge.s32.totalorder %s4, 10 /* loop exit test */ }
   0x5 LB: > { %v5 = vadd.f32 %v2, %v2 }
   0x6   : > { %p6 = scmp.ge.s32.totalorder %s4, 5 /* loop exit test */ }
"""


@pytest.fixture(scope="module")
def llo(load_script):
    return load_script(SCRIPT)


def test_bundles_in_loops_count_as_often_as_the_loops_run(llo):
    assert llo.parse_schedule(TEXT) == llo.Schedule(bundles=2 + 10 * 3 + 5 * 2, matmuls=10)


def test_schedules_are_found_by_the_name_of_the_op(llo, tmp_path):
    for name in (
        "fusion.7-03-final_bundles.txt",
        "fusion.7-02-schedule-analysis_final_bundles.txt",
    ):
        (tmp_path / f"1795917562435927006-{name}").write_text(TEXT)
    assert list(llo.read_schedules(tmp_path)) == ["fusion.7"]
