"""Runs `benchmarks/training.py` on small inputs; the printed times are not checked."""

import os
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "training.py"
# A process of its own for each measurement, which others' tests have, takes 4 s to start.
IN_ONE_PROCESS = """
import sys
import contest
contest.run_in_process = lambda function, *arguments: function(*arguments)
import training
training.main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def training(load_script):
    return load_script(SCRIPT)


@pytest.fixture
def arguments(training):
    return training.parse(["--tiny", "--steps", "1", "--rounds", "2"])


def cells(row):
    return [cell.strip() for cell in row.strip("|").split("|")]


@pytest.mark.slow
def test_table_is_complete_without_dataset_packages(run_python, tmp_path, block_imports):
    block_imports()
    results = tmp_path / "RESULTS.md"
    results.write_text("# Measured\n")
    printed = run_python(
        "-c", IN_ONE_PROCESS, "--tiny", "--steps", "1", "--rounds", "2", "--append", results,
        cwd=SCRIPT.parent, env=os.environ | {"PYTHONPATH": f"{tmp_path}:{SCRIPT.parents[1]}"},
    )  # fmt: skip
    setup, table = printed.strip().split("\n\n")
    assert "matrix rate" in setup
    rows = [cells(row) for row in table.splitlines()[2:]]
    assert [row[1].split(", ")[:2] for row in rows] == [
        ["ours"],
        ["ours", "from waveforms"],
        ["Hugging Face", "SDPA"],
        ["Hugging Face", "eager"],
    ]
    assert all(float(row[2]) > 0 for row in rows)
    appended = results.read_text()
    assert appended.startswith("# Measured\n\n## Training step: a tiny model")
    assert "python benchmarks/training.py --tiny --steps 1 --rounds 2\n" in appended
    assert appended.endswith(f"\n\n{table}\n")


def test_a_wrong_weight_raises(training, arguments, monkeypatch):
    right = training.make_weights

    def wrong(fields):
        config, weights, params = right(fields)
        params["ast"]["encoder"]["layers"]["mlp"]["fc1"]["kernel"][1, 0] *= 2
        return config, weights, params

    monkeypatch.setattr(training, "make_weights", wrong)
    with pytest.raises(AssertionError, match="SDPA, float32: the first loss is"):
        training.measure_training(("ours", "SDPA"), 2, arguments, "cpu", None)


def test_wrong_waveforms_raise(training, arguments, monkeypatch):
    right = training.make_batch

    def wrong(config, batch_size):
        batch = right(config, batch_size)
        return batch | {"waveforms": batch["waveforms"] // 2}

    monkeypatch.setattr(training, "make_batch", wrong)
    with pytest.raises(AssertionError, match="ours, from waveforms: the first loss is"):
        training.measure_training(("ours", "from waveforms"), 2, arguments, "cpu", None)


def test_a_contender_measured_alone_is_compared_with_the_given_loss(training, arguments):
    with pytest.raises(AssertionError, match=r"not 0\.5"):
        training.measure_training(("eager",), 2, arguments, "cpu", 0.5)


def test_table_rows_compute_rates_memory_and_ratios(training):
    seconds = {"ours": [[0.5, 0.25, 0.5]], "SDPA": [[1.0, 1.0, 0.5]]}
    found = {name: training.Measurement(name, 0.7, np.array(s)) for name, s in seconds.items()}
    found["ours"] = found["ours"]._replace(peak=3 * 2**29)
    found["SDPA"] = found["SDPA"]._replace(remark="apart")
    rows = [cells(row) for row in training.table_rows(2, found, 10**12, 16e12)]
    assert rows == [
        ["2", "ours", "4", "4", "25%", "1.50 GiB", "1"],
        ["2", "SDPA, apart", "2", "2", "12%", "–", "2.00 (1.50 to 3.00)"],
    ]


@pytest.mark.slow
def test_lack_of_memory_and_of_a_compiler_are_tolerated(training, arguments, monkeypatch, capsys):
    import torch

    def no_compiler(*_, **__):
        raise RuntimeError("no working compiler")

    hugging_face = training.hugging_face

    def small_memory(name, *rest):
        if name == "eager":
            raise RuntimeError("RESOURCE_EXHAUSTED: of a GPU's memory")
        return hugging_face(name, *rest)

    monkeypatch.setattr(torch, "compile", no_compiler)
    monkeypatch.setattr(training, "hugging_face", small_memory)
    arguments.compile = "default"
    found = training.measure_training(training.NAMES, 1, arguments, "cpu", None)
    assert "no working compiler" in capsys.readouterr().err
    assert found["ours"].seconds.shape == (1, 2)
    rows = [cells(row) for row in training.table_rows(1, found, 10**9, 1e12)]
    assert rows[2][1] == "Hugging Face, SDPA, float32"
    assert rows[3][1:4] == ["Hugging Face, eager, float32", "out of memory", ""]
