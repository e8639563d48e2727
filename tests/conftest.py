"""Shared fixtures: eight virtual devices, golden outputs, real recordings, small checkpoints."""

import contextlib
import dataclasses
import gc
import json
import logging
import os
import socket
import sys
import tempfile
import uuid
from pathlib import Path

import fsspec
import jax
import numpy as np
import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

# PyTorch's CUDA builds import triton at an optimizer's first step, which crashes if TensorFlow was
# imported before.
with contextlib.suppress(ImportError):
    import triton  # noqa: F401

# All tests share a compilation cache, including those in other processes. Workers of pytest-xdist
# inherit the main process's folder through the environment.
if "PYTEST_XDIST_WORKER" not in os.environ:
    CACHE = tempfile.TemporaryDirectory(prefix="ast_jax_tests_")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = CACHE.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
jax.config.update("jax_platforms", "cpu")
# Tests mostly compile, which takes a sixth of the time without optimizations and without XLA:CPU's
# fusion emitters, which jax 0.12 cannot turn off. Matrix products are the same; fused operations
# round slightly differently. JAX_DISABLE_MOST_OPTIMIZATIONS=0 XLA_FLAGS= compiles as for users.
jax.config.update(
    "jax_disable_most_optimizations",
    os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1") != "0",
)
FLAGS = ["--xla_cpu_parallel_codegen_split_count=1"]  # the other core has tests of its own
if jax.__version_info__ < (0, 12):
    FLAGS.append("--xla_cpu_use_fusion_emitters=false")
os.environ.setdefault("XLA_FLAGS", " ".join(FLAGS))
jax.config.update("jax_num_cpu_devices", 8)
# With Keras 3, TensorFlow imports scikit-learn and matplotlib: a third of its time.
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")

# The same examples on every machine and in every run.
settings.register_profile("fixed", derandomize=True)
settings.load_profile("fixed")

TESTS = Path(__file__).parent
sys.path[:0] = [str(TESTS / "golden"), str(TESTS)]
install_import_hook("ast_jax", "shape_check.typechecker")


def pytest_collection_modifyitems(items):
    """Runs the slowest files first, so that no worker ends alone with one."""
    slow = {"training", "benchmarks", "models", "checkpoint", "legacy"}
    items.sort(key=lambda item: not slow & set(item.path.parts) and item.path.parent != TESTS)


def pytest_collection_finish():
    """Hides the imported modules from the garbage collector: a twentieth of the tests' time."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def within(record_property):
    """Returns a function that asserts a parity bound and records it for the summary."""

    def check(what: str, error: float, bound: float) -> None:
        record_property("parity", (what, float(error), float(bound)))
        assert error <= bound, f"{what}: {error} exceeds {bound}"

    return check


def pytest_terminal_summary(terminalreporter):
    """Prints the parity table of the README."""
    worst: dict[str, tuple[float, float]] = {}
    for outcome in ("passed", "failed"):
        for report in terminalreporter.getreports(outcome):
            for name, figure in report.user_properties:
                if name == "parity" and report.when == "call":
                    what, error, bound = figure
                    worst[what] = (max(error, worst.get(what, (0.0, bound))[0]), bound)
    if worst:
        terminalreporter.section("parity")
        for what, (error, bound) in sorted(worst.items()):
            terminalreporter.write_line(f"{what:78} {error:8.1e}  (bound {bound:.1e})")


@pytest.fixture(scope="module")
def no_plots():
    """Disables the plots of runs in this file; they take seconds, and have tests of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ast_jax.runs.history.draw_loss", lambda *arguments: None)
        for name in ("draw_confusion", "draw_class_precisions"):
            patch.setattr(f"ast_jax.runs.results.{name}", lambda *arguments: None)
        yield


# Fields on which no program depends, beyond the length of the run and whether there is an average.
NOT_COMPILED = (
    "workdir", "init_from", "data", "num_epochs", "evaluate_every", "checkpoint_every_steps",
    "max_to_keep", "metric", "average_to", "cumulative", "final_params", "skip_nonfinite",
    "profile_steps",
)  # fmt: skip

SHARED = {}  # step functions, for all files of tests that a process runs


@pytest.fixture(scope="module")
def share_functions():
    """Lets runs of equal programs share their jitted functions: tracing is most of a run."""
    from ast_jax.config import TrainConfig
    from ast_jax.training import loop

    build_step_functions = loop.build_step_functions
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


@pytest.fixture(scope="session")
def free_port():
    """Returns a function that returns a free port of this machine."""

    def find():
        with socket.socket() as free:
            free.bind(("localhost", 0))
            return free.getsockname()[1]

    return find


@pytest.fixture(scope="session")
def emulators(free_port):
    """Starts emulators of Google's and Amazon's storage on this machine; returns their settings."""
    pytest.importorskip("moto")
    from gcp_storage_emulator.server import create_server
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    amazon = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    amazon.start()
    host, port = amazon.get_host_and_port()
    google_port = free_port()
    google = create_server("127.0.0.1", google_port, in_memory=True)
    google.start()
    yield {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "of a test",
        "AWS_SECRET_ACCESS_KEY": "of a test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "FSSPEC_GS_TOKEN": "anon",
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # asks Google for the kind of bucket
        "STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{google_port}",
    }
    google.stop()
    amazon.stop()


@pytest.fixture(params=["gs", "s3"])
def bucket(request, emulators, monkeypatch, tmp_path):
    """Returns the URL of a new bucket, and gives the test a cache of its own."""
    for name, value in emulators.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    fsspec.config.set_conf_env(fsspec.config.conf)
    name = f"bucket-{uuid.uuid4().hex}"
    fsspec.filesystem(request.param).mkdir(name)
    return f"{request.param}://{name}"


@pytest.fixture(scope="session")
def golden():
    """Returns the original model's golden outputs: the JSON as a dict, arrays under 'arrays'."""
    entry = json.loads((TESTS / "golden" / "original_ast.json").read_text())
    with np.load(TESTS / "golden" / "original_ast.npz") as arrays:
        return entry | {"arrays": dict(arrays)}


@pytest.fixture(scope="session")
def golden_training():
    """Returns the original's 24-step training trajectory, in the format of `golden`."""
    entry = json.loads((TESTS / "golden" / "training.json").read_text())
    with np.load(TESTS / "golden" / "training.npz") as arrays:
        return entry | {"arrays": dict(arrays)}


@pytest.fixture(scope="session")
def esc10():
    """Returns the folder of the ESC-10 recordings, in the layout of the ESC-50 repository."""
    folder = TESTS.parent.parent / "shared" / "data" / "esc10"
    if not folder.exists():
        pytest.skip(f"needs the ESC-10 recordings in {folder}")
    return folder


# ---- small checkpoints with the tensor names of published ones

# Widths of the golden tiny224 model → smaller ones.
SMALLER = {192: 64, 576: 192, 768: 128, 1000: 10}


def _layer(name):
    parts = name.split(".")
    return int(parts[parts.index("blocks") + 1]) if "blocks" in parts else 0


def _small(shapes, layers, patches, classes, seed):
    import rule

    tensors = {}
    for name, shape in shapes.items():
        if _layer(name) >= layers:
            continue
        shape = [SMALLER.get(size, size) for size in shape]
        if name.endswith("pos_embed"):
            shape[1] = 2 + patches
        if name.startswith("mlp_head.1."):
            shape[0] = classes
        tensors[name] = rule.tensor(name, tuple(shape), seed)
    return tensors


@pytest.fixture(scope="session")
def original_tensors(golden):
    """Returns a function that makes an original checkpoint's tensors with small widths."""
    (tiny,) = (entry for entry in golden["models"] if entry["name"] == "tiny224_esc")

    def make(layers=2, patches=144, classes=5, imagenet_heads=True, seed=3):
        tensors = _small(tiny["tensors"], layers, patches, classes, seed)
        if not imagenet_heads:
            return {k: v for k, v in tensors.items() if not k.startswith("v.head")}
        return tensors

    return make


@pytest.fixture(scope="session")
def deit_tensors(golden):
    """Returns a function that makes tensors of a distilled DeiT: small widths, 7 x 7 patches."""
    (tiny,) = (entry for entry in golden["imagenet_init"] if entry["key"].startswith("tiny224"))

    def make(layers=2, patches=49, seed=4):
        return _small(tiny["tensors"], layers, patches, None, seed)

    return make


@pytest.fixture(scope="session")
def small_config():
    """Returns the configuration of the checkpoint of `original_tensors`."""
    from ast_jax.models.config import ASTConfig

    return ASTConfig(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=1,
        intermediate_size=128,
        max_length=128,
        num_labels=5,
    )


@pytest.fixture(scope="session")
def small_checkpoint(original_tensors, small_config):
    """Returns the checkpoint of `original_tensors` in our format, with named classes."""
    from ast_jax.audio.feature_extractor import ASTFeatureExtractor
    from ast_jax.checkpoint.format import Checkpoint
    from ast_jax.checkpoint.torch_names import params_from_tensors

    names = dict(enumerate(["rain", "wind", "sea", "bird", "owl"]))
    params, _ = params_from_tensors(original_tensors(), "original", small_config, "rule")
    extractor = ASTFeatureExtractor(max_length=128, mean=-3.0, std=2.0)
    return Checkpoint(small_config.replace(id2label=names), extractor, params)


@pytest.fixture(scope="session")
def save_torch():
    """Returns a function that saves NumPy tensors with `torch.save`, with a prefix of the names."""
    import torch

    def save(tensors, path, prefix="", wrap=None, **options):
        content = {prefix + name: torch.from_numpy(np.array(t)) for name, t in tensors.items()}
        torch.save({wrap: content} if wrap else content, path, **options)
        return path

    return save
