"""Damaged and hostile checkpoints, PyTorch files, prepared sets and runs are read or refused."""

import sys

import pytest

from tests.fuzz.harness import CLEAN, run_cases, table

if sys.platform != "linux":
    pytest.skip("the harness reads /proc", allow_module_level=True)
pytest.importorskip("torch")
pytest.importorskip("array_record")


def test_damage_is_seen_or_changes_nothing():
    results = run_cases("tests.fuzz.checkpoints", "mixed", range(60))
    assert all(result.end in CLEAN for result in results), table(results)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["checkpoint", "torch_file", "prepared_set", "run_folder"])
def test_much_damage_is_seen_or_changes_nothing(case):
    results = run_cases("tests.fuzz.checkpoints", case, range(1000, 2000))
    assert all(result.end in CLEAN for result in results), table(results)
