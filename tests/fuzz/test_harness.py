import sys

import pytest

from tests.fuzz.harness import ENDS, run_cases, table

if sys.platform != "linux":
    pytest.skip("the harness reads /proc", allow_module_level=True)


def test_every_end_is_counted_and_costs_no_other_case():
    seeds = [*range(len(ENDS)), 0]
    results = run_cases("tests.fuzz.ends", "end", seeds, seconds=1, megabytes=100)
    assert [result.end for result in results] == [*ENDS, "answer"]
    assert [result.seed for result in results] == seeds
    assert results[1].detail == "x: is empty; fill it"
    assert "KeyError: 'a bug'" in results[3].detail
    assert 140 < results[6].megabytes < 200
    text = table(results)
    assert "answer             2\n" in text
    assert "5: hang: more than 1 s" in text


def test_memory_that_cannot_be_had_ends_the_case_and_not_the_run():
    seeds = [ENDS.index("memory"), 0]
    results = run_cases("tests.fuzz.ends", "end", seeds, megabytes=20)
    assert [result.end for result in results] == ["memory", "answer"]
