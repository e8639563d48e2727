"""Fixtures of tests that train."""

import dataclasses

import pytest

from ast_jax.config import TrainConfig
from ast_jax.training import loop
from ast_jax.training.setup import build_step_functions

# Fields on which no program depends, beyond the length of the run and whether there is an average.
NOT_COMPILED = (
    "workdir", "init_from", "data", "num_epochs", "evaluate_every", "checkpoint_every_steps",
    "max_to_keep", "metric", "average_to", "cumulative", "final_params", "skip_nonfinite",
    "profile_steps",
)  # fmt: skip

SHARED = {}  # by all files of tests that a process runs


@pytest.fixture(scope="module")
def share_functions():
    """Lets runs of equal programs share their jitted functions: tracing is most of a run."""
    unset = {name: getattr(TrainConfig(), name) for name in NOT_COMPILED}

    def build(config, initial, parallel, length, overrides):
        functions, state = build_step_functions(config, initial, parallel, length, overrides)
        same = dataclasses.replace(config, average_from=config.average_from > 0, **unset)
        if config.optimizer.schedule == "constant":
            length = None
        parts = (same, initial.config, initial.feature_extractor, parallel.devices, length)
        # Functions of the caller are told apart by address, and kept so that it stays theirs.
        key = repr((*parts, overrides[:3]))
        return SHARED.setdefault(key, (functions, overrides))[0], state

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "build_step_functions", build)
        yield
