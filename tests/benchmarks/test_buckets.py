"""Tests the batches that `benchmarks/buckets.py` times."""

from pathlib import Path

import numpy as np

from ast_jax.config import TrainConfig
from tests.small_run import MODEL

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "buckets.py"


def test_buckets_have_the_same_clips_in_fewer_tokens(load_script):
    script = load_script(SCRIPT)
    model = MODEL.replace(mask_padding=True, max_length=1024)
    clips = script.make_clips(48, model.num_labels)
    config = TrainConfig(model=model, batch_size=4)
    targets, tokens = [], []
    for config.length_buckets in (1, 4):
        batches = script.make_batches(config, clips, 12)
        targets.append(np.sort(np.concatenate([each["targets"].argmax(1) for each in batches])))
        tokens.append(np.mean([script.tokens(model, each) for each in batches]))
    np.testing.assert_array_equal(*targets)
    assert tokens[0] == model.num_tokens
    assert tokens[1] < 0.8 * tokens[0]
