"""The start of a run, and the compilation of its step for its devices."""

import json
from unittest.mock import Mock

import jax
import pytest

from ast_jax.audio.feature_extractor import ASTFeatureExtractor
from ast_jax.checkpoint.format import Checkpoint
from ast_jax.checkpoint.torch_write import write_huggingface
from ast_jax.config import TrainConfig
from ast_jax.data.synthetic import make_synthetic
from ast_jax.models.ast import init_params
from ast_jax.models.config import ASTConfig
from ast_jax.sharding import DataParallel
from ast_jax.training.initial import initial_checkpoint
from ast_jax.training.setup import should_exchange_by_layer, should_unroll
from tests.small_run import small

HALF = ASTConfig(dtype="bfloat16")


def config_and_devices(platform, number, fields):
    devices = [Mock(jax.Device, platform=platform, compute_capability="9.0")] * number
    config = TrainConfig(**({"model": HALF} | fields))
    return config, DataParallel(config.parallel, devices)


@pytest.mark.parametrize(
    ("platform", "number", "fields", "expected"),
    [
        ("tpu", 1, {}, False),
        ("tpu", 4, {}, True),
        ("tpu", 4, {"grad_accum_steps": 2}, False),
        ("tpu", 4, {"shard_optimizer": True}, False),
        ("tpu", 4, {"parallel": "pmap"}, False),
        ("gpu", 8, {}, False),
        ("cpu", 1, {}, False),
    ],
)
def test_several_tpus_exchange_by_layer(platform, number, fields, expected):
    assert should_exchange_by_layer(*config_and_devices(platform, number, fields)) is expected


@pytest.mark.parametrize(
    ("platform", "number", "fields", "expected"),
    [
        ("tpu", 1, {}, True),
        ("tpu", 4, {}, False),
        ("tpu", 1, {"remat": "none"}, True),
        ("tpu", 1, {"remat": "everything"}, False),
        # XLA computes attention.
        ("tpu", 1, {"model": HALF.replace(dtype="float32")}, False),
        ("tpu", 1, {"model": HALF.replace(max_length=2048)}, False),
        ("gpu", 1, {}, False),
        ("cpu", 1, {}, False),
    ],
)
def test_one_tpu_unrolls_the_layers_if_their_weights_stay_in_its_kernel(
    platform, number, fields, expected
):
    assert should_unroll(*config_and_devices(platform, number, fields)) is expected


def test_a_run_notes_the_dropout_that_its_initial_checkpoint_was_trained_with(tmp_path, capsys):
    source = tmp_path / "theirs"
    config = small(tmp_path / "run", init_from=str(source))
    extractor = ASTFeatureExtractor(num_mel_bins=32, max_length=64)
    write_huggingface(source, Checkpoint(config.model, extractor, init_params(config.model)))
    (source / "preprocessor_config.json").unlink()  # the run has its own
    fields = json.loads((source / "config.json").read_text()) | {"hidden_dropout_prob": 0.1}
    (source / "config.json").write_text(json.dumps(fields))
    initial_checkpoint(config, make_synthetic(1, 1, seed=0), extractor)
    assert capsys.readouterr().out == (
        f"note: {source}: hidden_dropout_prob 0.1: not used, as this model trains without dropout; "
        f"predictions are not affected\n"
    )
