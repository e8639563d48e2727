"""`benchmarks/frontend.py` as one tries it; the times it prints are not looked at."""

import os
from pathlib import Path

SCRIPT = Path(__file__).parent.parent.parent / "benchmarks" / "frontend.py"


def test_all_stand_in_the_table_without_what_only_data_sets_need(run, without, tmp_path):
    without()
    output = run(SCRIPT, "--tiny", env=os.environ | {"PYTHONPATH": str(tmp_path)})
    names = [row.split("|")[1].strip() for row in output.splitlines() if row.startswith("|")][2:]
    assert names[0] == "Hugging Face's extractor (NumPy)"
    assert {"our extractor (NumPy)", "our fbank alone (NumPy)", "the same in float64"} < set(names)
    assert sum(name.startswith("`fbank_jax` on ") for name in names) == 2
