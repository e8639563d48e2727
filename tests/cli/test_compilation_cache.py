import os
import subprocess
import sys

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from ast_jax.audio.feature_extractor import ASTFeatureExtractor
from ast_jax.checkpoint.format import Checkpoint, save_checkpoint
from ast_jax.cli.compilation_cache import enable_compilation_cache
from ast_jax.cli.main import main
from ast_jax.models.ast import init_params
from ast_jax.models.config import ASTConfig

CODE = """
import jax
from ast_jax.cli.compilation_cache import enable_compilation_cache
enable_compilation_cache()
print(jax.config.jax_compilation_cache_dir)
"""
SETTINGS = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")


def run(*command, **variables):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")} | variables
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.strip()


@pytest.fixture
def enabled(monkeypatch):
    """Returns a function that enables the cache as a new process does and returns its folder."""
    before = {name: getattr(jax.config, name) for name in SETTINGS}

    def enable(**variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, str(value))
        jax.config.update("jax_compilation_cache_dir", None)
        enable_compilation_cache()
        return jax.config.jax_compilation_cache_dir

    yield enable
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def test_programs_are_cached_in_the_users_folder(enabled, tmp_path):
    assert enabled(XDG_CACHE_HOME=tmp_path / "new") == str(tmp_path / "new" / "ast_jax")
    assert enabled(XDG_CACHE_HOME="", HOME=tmp_path) == str(tmp_path / ".cache" / "ast_jax")
    assert enabled(XDG_CACHE_HOME="/proc") is None


def test_jaxs_own_setting_takes_precedence(tmp_path):
    mine = str(tmp_path / "mine")
    variables = {"XDG_CACHE_HOME": str(tmp_path), "JAX_COMPILATION_CACHE_DIR": mine}
    assert run(sys.executable, "-c", CODE, **variables) == mine


def test_a_folder_that_others_can_write_to_is_not_used(enabled, tmp_path):
    (tmp_path / "ast_jax").mkdir()
    (tmp_path / "ast_jax").chmod(0o777)
    assert enabled(XDG_CACHE_HOME=tmp_path) is None


def test_a_second_classification_uses_the_cached_program(enabled, tmp_path, esc10, capsys):
    config = ASTConfig(
        hidden_size=32, num_attention_heads=2, intermediate_size=64, num_hidden_layers=2,
        frequency_stride=16, time_stride=16, max_length=512, num_labels=3,
    )  # fmt: skip
    extractor = ASTFeatureExtractor(max_length=512)
    save_checkpoint(tmp_path / "model", Checkpoint(config, extractor, init_params(config)))
    sound = next((esc10 / "audio").iterdir())

    def classify():
        """Returns what the command prints in a process that has compiled nothing."""
        jax.clear_caches()
        compilation_cache.reset_cache()
        enabled(XDG_CACHE_HOME=tmp_path, JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0)
        assert main(["classify", str(sound), "--checkpoint", str(tmp_path / "model")]) == 0
        printed = capsys.readouterr()
        assert printed.err == ""
        return printed.out

    first = classify()
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "ast_jax").iterdir()}
    assert kept
    assert classify() == first
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "ast_jax").iterdir()} == kept
    for path in kept:  # as on a full disk
        path.write_bytes(path.read_bytes()[:100])
    assert classify() == first
