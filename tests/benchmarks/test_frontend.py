"""Runs `benchmarks/frontend.py` on small inputs; the printed times are not checked."""

import os
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "frontend.py"


def test_table_is_complete_without_dataset_packages(run_python, block_imports, tmp_path):
    block_imports()
    output = run_python(SCRIPT, "--tiny", env=os.environ | {"PYTHONPATH": str(tmp_path)})
    names = [row.split("|")[1].strip() for row in output.splitlines() if row.startswith("|")][2:]
    assert names[0] == "Hugging Face's extractor (NumPy)"
    assert {"our extractor (NumPy)", "our fbank alone (NumPy)", "the same in float64"} < set(names)
    assert sum(name.startswith("`fbank_jax` on ") for name in names) == 2
