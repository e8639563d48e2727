"""The step is compiled in the way that is fastest on the devices of the run."""

from unittest.mock import Mock

import jax
import pytest

from ast_jax.config import TrainConfig
from ast_jax.models.config import ASTConfig
from ast_jax.sharding import DataParallel
from ast_jax.training.setup import should_exchange_by_layer, should_unroll

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
