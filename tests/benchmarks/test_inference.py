"""Runs `benchmarks/inference.py` on small inputs; the printed times are not checked."""

import os
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "inference.py"
ARGUMENTS = ["--tiny", "--rounds=2", "--calls=3", "--inputs=waveforms"]


@pytest.fixture(scope="module")
def inference(load_script):
    return load_script(SCRIPT)


def cells(row):
    return [cell.strip() for cell in row.strip("|").split("|")]


@pytest.mark.slow  # three processes import both frameworks
def test_the_script_runs_without_dataset_packages(run_python, tmp_path, block_imports):
    block_imports()
    run_python(SCRIPT, *ARGUMENTS, env=os.environ | {"PYTHONPATH": str(tmp_path)})


def test_the_table_is_complete(inference, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(inference, "run_in_process", lambda function, *rest: function(*rest))
    monkeypatch.setattr(inference, "measure_batch", lambda function, *rest: function(*rest, None))
    results = tmp_path / "RESULTS.md"
    results.write_text("# Measured\n")
    inference.main([*ARGUMENTS, "--append", str(results)])
    printed = capsys.readouterr().out
    setup, table = printed.strip().split("\n\n")
    assert "matrix rate" in setup
    rows = [cells(row) for row in table.splitlines()[2:]]
    assert [row[:2] for row in rows] == [["2", "ours"], ["2", "Hugging Face, SDPA, float32"]]
    assert all(float(row[2].split()[0]) > 0 and float(row[4]) > 0 for row in rows)
    appended = results.read_text()
    assert "## Inference: a tiny model, 128 frames, float32, from waveforms" in appended
    assert appended.endswith(f"\n\n{table}\n")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("inputs", ["log-mels", "waveforms"])
def test_a_wrong_weight_raises(inference, monkeypatch, inputs, dtype):
    arguments = inference.parse(["--tiny", "--rounds=1", f"--inputs={inputs}", f"--dtype={dtype}"])
    names, right = ("ours", "SDPA"), inference.make_weights
    found = inference.measure_inference(names, 2, arguments, "cpu", None)
    assert [one.first.shape for one in found.values()] == [(2, 527)] * 2

    def wrong(fields):
        config, weights, params = right(fields)
        params["classifier"]["layernorm"]["scale"][:32] *= 2
        return config, weights, params

    monkeypatch.setattr(inference, "make_weights", wrong)
    with pytest.raises(AssertionError, match=r"SDPA, .*: logits differ by"):
        inference.measure_inference(names, 2, arguments, "cpu", None)


def test_torch_frontend_matches_the_extractor(inference):
    import torch

    from ast_jax.audio.feature_extractor import ASTFeatureExtractor

    rng = np.random.default_rng(0)
    waveforms = (3000 * rng.standard_normal((2, 16000))).astype(np.int16)
    extractor = ASTFeatureExtractor(max_length=110)
    found = inference.torch_frontend(extractor, "cpu")(torch.from_numpy(waveforms))
    np.testing.assert_allclose(found, extractor(list(waveforms / 2**15), 16000), atol=1e-4)


def test_table_rows_compute_ratios_rates_and_memory(inference):
    seconds = {
        "ours": [[0.5, 1.0, 1.0], [0.25, 0.5, 0.5]],
        "SDPA": [[2.0, 2.0, 1.0], [1.0, 0.5, 1.0]],
    }
    found = {name: inference.Measurement(name, None, np.array(s)) for name, s in seconds.items()}
    found["SDPA"] = found["SDPA"]._replace(peak=2**30)
    rows = [cells(row) for row in inference.table_rows(4, found, 10**12, 16e12)]
    ratio = "2.00 (1.50 to 3.00)"
    assert rows == [
        ["4", "ours", "1 s", "1", "8", "8", "50%", "1", "–"],
        ["4", "SDPA", "2 s", ratio, "4", "4", "25%", ratio, "1.00 GiB"],
    ]


@pytest.mark.slow
def test_the_peer_and_its_frontend_compile(run_python):
    printed = run_python(SCRIPT, "--tiny", "--rounds=1", "--inputs=waveforms", "--compile=default")
    assert "| Hugging Face, SDPA, float32, compiled |" in printed
