"""Fixtures of tests that train."""

import dataclasses

import pytest

from ast_jax.training import loop
from ast_jax.training.setup import build_step_functions


@pytest.fixture(scope="module")
def share_functions():
    """Lets runs of equal configuration share their jitted functions: tracing is most of a run."""
    shared = {}

    def build(config, initial, parallel, length, overrides):
        functions, state = build_step_functions(config, initial, parallel, length, overrides)
        same = dataclasses.replace(config, workdir="", data=None)  # no program depends on them
        key = repr(
            (same, initial.config, initial.feature_extractor, parallel.devices, length, overrides)
        )
        return shared.setdefault(key, functions), state

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "build_step_functions", build)
        yield
