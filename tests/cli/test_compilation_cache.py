import os
import subprocess
import sys

import pytest

from ast_jax.audio.feature_extractor import ASTFeatureExtractor
from ast_jax.checkpoint.format import Checkpoint, save_checkpoint
from ast_jax.models.ast import init_params
from ast_jax.models.config import ASTConfig

CODE = """
import jax
from ast_jax.cli.compilation_cache import enable_compilation_cache
enable_compilation_cache()
print(jax.config.jax_compilation_cache_dir)
"""


def run(*command, **variables):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")} | variables
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"XDG_CACHE_HOME": "{tmp}/new"}, "{tmp}/new/ast_jax"),
        ({"XDG_CACHE_HOME": "", "HOME": "{tmp}"}, "{tmp}/.cache/ast_jax"),
        ({"XDG_CACHE_HOME": "{tmp}", "JAX_COMPILATION_CACHE_DIR": "{tmp}/mine"}, "{tmp}/mine"),
        ({"XDG_CACHE_HOME": "/proc"}, "None"),
    ],
)
def test_programs_are_cached_in_the_users_folder_unless_jax_has_another(
    tmp_path, variables, expected
):
    variables = {name: value.format(tmp=tmp_path) for name, value in variables.items()}
    assert run(sys.executable, "-c", CODE, **variables) == expected.format(tmp=tmp_path)


def test_a_folder_that_others_can_write_to_is_not_used(tmp_path):
    (tmp_path / "ast_jax").mkdir()
    (tmp_path / "ast_jax").chmod(0o777)
    assert run(sys.executable, "-c", CODE, XDG_CACHE_HOME=str(tmp_path)) == "None"


def test_a_second_classification_uses_the_cached_program(tmp_path, esc10):
    config = ASTConfig(
        hidden_size=32, num_attention_heads=2, intermediate_size=64, num_hidden_layers=2,
        frequency_stride=16, time_stride=16, max_length=512, num_labels=3,
    )  # fmt: skip
    extractor = ASTFeatureExtractor(max_length=512)
    save_checkpoint(tmp_path / "model", Checkpoint(config, extractor, init_params(config)))
    sound = next((esc10 / "audio").iterdir())
    command = [sys.executable, "-m", "ast_jax.cli.main", "classify", str(sound)]
    command += ["--checkpoint", str(tmp_path / "model")]
    caches = {"XDG_CACHE_HOME": str(tmp_path), "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
    caches["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    first = run(*command, **caches)
    kept = sorted((tmp_path / "ast_jax").iterdir())
    assert kept
    assert run(*command, **caches) == first
    assert sorted((tmp_path / "ast_jax").iterdir()) == kept
    for path in kept:  # as on a full disk
        path.write_bytes(path.read_bytes()[:100])
    assert run(*command, **caches) == first
