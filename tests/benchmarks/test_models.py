"""Tests `benchmarks/models.py`."""

from pathlib import Path

import numpy as np
import pytest

from ast_jax.models.config import ASTConfig

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "models.py"


@pytest.fixture(scope="module")
def models(load_script):
    return load_script(SCRIPT)


def test_flop_match_pytorchs_counter(models):
    import torch
    import transformers
    from torch.utils.flop_counter import FlopCounterMode

    config = transformers.ASTConfig(**models.TINY, num_labels=527, attn_implementation="eager")
    model = transformers.ASTForAudioClassification(config)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, config.max_length, config.num_mel_bins))
    ours = ASTConfig().replace(**models.TINY)
    assert models.forward_flop(ours) == counter.get_total_flops()
    assert models.training_flop(ours) == 3 * counter.get_total_flops()


def test_make_batch_has_noise_its_log_mels_and_labels(models):
    config = ASTConfig().replace(**models.TINY)
    batch = models.make_batch(config, 3)
    assert batch["waveforms"].dtype == np.int16
    assert batch["waveforms"].shape == (3, 160 * 104)
    assert np.abs(batch["waveforms"]).max() < 2**15 - 1
    assert (batch["lengths"] == 160 * 104).all()
    expected = models.make_extractor(config)(list(batch["waveforms"] / 2**15), 16000)
    np.testing.assert_array_equal(batch["input_values"], expected)
    assert expected.std() > 0.3
    assert 0 < batch["targets"].mean() < 0.02
    assert not np.array_equal(batch["waveforms"][0], batch["waveforms"][1])


def test_a_large_batch_repeats_clips_with_new_labels(models):
    batch = models.make_batch(ASTConfig().replace(**models.TINY), 18)
    for name in ("waveforms", "input_values"):
        np.testing.assert_array_equal(batch[name][16:], batch[name][:2])
        assert len(batch[name]) == 18
    assert not np.array_equal(batch["targets"][16:], batch["targets"][:2])
