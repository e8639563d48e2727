"""The step is compiled in the way that is fastest on the devices of the run."""

from types import SimpleNamespace

import pytest

from ast_jax.config import TrainConfig
from ast_jax.training.setup import should_exchange_by_layer, should_unroll


def devices(platform, number):
    return SimpleNamespace(devices=[SimpleNamespace(platform=platform)] * number)


@pytest.mark.parametrize(
    ("platform", "number", "fields", "by_layer", "unroll"),
    [
        ("tpu", 1, {}, False, True),
        ("tpu", 4, {}, True, False),
        ("tpu", 4, {"grad_accum_steps": 2}, False, False),
        ("tpu", 4, {"shard_optimizer": True}, False, False),
        ("tpu", 1, {"remat": "everything"}, False, False),
        ("gpu", 8, {}, False, False),
        ("cpu", 1, {}, False, False),
    ],
)
def test_several_tpus_exchange_by_layer_and_one_unrolls(platform, number, fields, by_layer, unroll):
    config = TrainConfig(**fields)
    assert should_exchange_by_layer(config, devices(platform, number)) is by_layer
    assert should_unroll(config, devices(platform, number)) is unroll
