"""`benchmarks/training.py` as one tries it; the times it prints are not looked at."""

import os
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parent.parent.parent / "benchmarks" / "training.py"


@pytest.fixture(scope="module")
def training(as_module):
    return as_module(SCRIPT)


@pytest.fixture
def arguments(training):
    return training.parse(["--tiny", "--steps", "1", "--rounds", "2"])


def cells(row):
    return [cell.strip() for cell in row.strip("|").split("|")]


def test_all_stand_in_the_table_without_what_only_data_sets_need(run, tmp_path, without):
    without()
    results = tmp_path / "RESULTS.md"
    results.write_text("# Measured\n")
    printed = run(
        SCRIPT, "--tiny", "--steps", "1", "--rounds", "2", "--append", results,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    said, table = printed.strip().split("\n\n")
    assert "matrix rate" in said
    rows = [cells(row) for row in table.splitlines()[2:]]
    assert [row[1].split(", ")[:2] for row in rows] == [
        ["ours"],
        ["Hugging Face", "SDPA"],
        ["Hugging Face", "eager"],
    ]
    assert all(float(row[2]) > 0 for row in rows)
    appended = results.read_text()
    assert appended.startswith("# Measured\n\n## Training step: a tiny model")
    assert "python benchmarks/training.py --tiny --steps 1 --rounds 2\n" in appended
    assert appended.endswith(f"\n\n{table}\n")


def test_a_wrong_weight_is_found_before_anything_is_timed(training, arguments, monkeypatch):
    right = training.make_weights

    def wrong(fields):
        config, weights, params = right(fields)
        params["ast"]["encoder"]["layers"]["mlp"]["fc1"]["kernel"][1, 0] *= 2
        return config, weights, params

    monkeypatch.setattr(training, "make_weights", wrong)
    with pytest.raises(AssertionError, match="SDPA, float32: the first loss is"):
        training.measure(("ours", "SDPA"), 2, arguments, "cpu")


def test_one_alone_is_held_against_the_loss_of_the_others(training, arguments):
    with pytest.raises(AssertionError, match=r"not 0\.5"):
        training.measure(("eager",), 2, arguments, "cpu", 0.5)


@pytest.mark.slow
def test_out_of_memory_and_out_of_compilers(training, arguments, monkeypatch, capsys):
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
    found = training.measure(training.NAMES, 1, arguments, "cpu")
    assert "no working compiler" in capsys.readouterr().out
    assert found["ours"].seconds.shape == (2,)
    rows = [cells(row) for row in training.table_rows(1, found, 10**9, 1e12)]
    assert rows[1][1] == "Hugging Face, SDPA, float32"
    assert rows[2][1:4] == ["Hugging Face, eager, float32", "out of memory", ""]


def test_who_ran_out_of_memory_is_tried_alone_with_the_others_loss(
    training, arguments, monkeypatch
):
    calls = []

    def alone(function, names, batch_size, arguments, kind, expected=None):
        calls.append((names, expected))
        if len(names) == 1:
            return {names[0]: training.Measured(names[0], 0.75, np.ones(2))}
        fine = {name: training.Measured(name, 0.75, np.ones(2)) for name in names}
        return fine | {"eager": training.Measured("eager", remark="out of memory")}

    monkeypatch.setattr(training, "alone", alone)
    found = training.measure_batch(4, arguments, "cuda")
    assert calls == [(training.NAMES, None), (("eager",), 0.75)]
    assert [found[name].remark for name in training.NAMES] == ["", "", "apart"]


def test_flop_are_those_that_pytorch_counts(training):
    import torch
    import transformers
    from torch.utils.flop_counter import FlopCounterMode

    from ast_jax.models.config import ASTConfig

    config = transformers.ASTConfig(**training.TINY, num_labels=527, attn_implementation="eager")
    model = transformers.ASTForAudioClassification(config)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, config.max_length, config.num_mel_bins))
    expected = 3 * counter.get_total_flops()
    assert training.training_flop(ASTConfig().replace(**training.TINY)) == expected
