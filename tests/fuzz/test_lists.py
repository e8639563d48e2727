import sys

import pytest

from tests.fuzz.harness import CLEAN, run_cases, table

if sys.platform != "linux":
    pytest.skip("the harness reads /proc", allow_module_level=True)

CASES = [
    ("lists", "write_and_read", 60),
    ("lists", "read_damaged", 100),
    ("configurations", "load_json", 60),
    ("configurations", "load_python", 40),
]


@pytest.mark.parametrize(("module", "case", "seeds"), CASES)
def test_lists_and_configurations_are_read_or_refused(module, case, seeds):
    results = run_cases(f"tests.fuzz.{module}", case, range(seeds))
    assert all(result.end in CLEAN for result in results), table(results)
    assert {result.end for result in results} & {"answer"}


@pytest.mark.slow
@pytest.mark.parametrize(("module", "case", "seeds"), CASES)
def test_thousands_of_lists_and_configurations(module, case, seeds):
    results = run_cases(f"tests.fuzz.{module}", case, range(seeds, 40 * seeds))
    assert all(result.end in CLEAN for result in results), table(results)
