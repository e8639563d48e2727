import itertools
import json
import os
import random
import shutil
import subprocess
import sys

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
import tensorstore
from flax import traverse_util

from ast_jax.audio.feature_extractor import ASTFeatureExtractor
from ast_jax.checkpoint.format import (
    Checkpoint,
    is_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from ast_jax.errors import InputError
from ast_jax.models.config import ASTConfig
from tests.params import random_params

CONFIG = ASTConfig(
    hidden_size=8,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=12,
    max_length=64,
    num_mel_bins=32,
    id2label={0: "rain", 1: "café", 2: "owl"},
    num_labels=3,
    problem_type="multi_label_classification",
    dtype="bfloat16",
    layer_norm_eps=1e-12,
)
EXTRACTOR = ASTFeatureExtractor(
    sampling_rate=22050, num_mel_bins=32, max_length=64, mean=-1.5, std=0.25
)


CHECKPOINT = Checkpoint(CONFIG, EXTRACTOR, random_params(CONFIG))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "checkpoint"
    save_checkpoint(path, CHECKPOINT)
    return path


@pytest.fixture
def copy(saved, tmp_path):
    """Returns a copy of the checkpoint that a test can change."""
    return shutil.copytree(saved, tmp_path / "copy")


def save_params(path, params):
    """Replaces the parameters in a checkpoint folder, and removes its checksums."""
    shutil.rmtree(path / "params")
    shutil.rmtree(path / "checksums")
    with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
        checkpointer.save(path / "params", args=ocp.args.StandardSave(params))


def refusal(path):
    with pytest.raises(InputError) as caught:
        load_checkpoint(path)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_checkpoint_round_trips_exactly(saved):
    config, extractor, params = load_checkpoint(saved)
    assert (config, extractor) == (CONFIG, EXTRACTOR)
    assert jax.tree.structure(params) == jax.tree.structure(CHECKPOINT.params)
    for ours, expected in zip(
        jax.tree.leaves(params), jax.tree.leaves(CHECKPOINT.params), strict=True
    ):
        assert isinstance(ours, np.ndarray)
        assert ours.tobytes() == expected.tobytes()


def test_the_folder_has_only_parameters_a_description_and_checksums(saved):
    names = {path.name for path in saved.iterdir() if path.is_dir()}
    assert names == {"params", "config", "checksums"}
    assert [path.name for path in saved.parent.iterdir()] == ["checkpoint"]
    description = json.loads((saved / "config" / "config.json").read_text())
    assert description["model"]["id2label"]["1"] == "café"
    assert description["feature_extractor"]["sampling_rate"] == 22050
    assert is_checkpoint(saved)
    assert not is_checkpoint(saved.parent)


def test_a_moved_checkpoint_and_a_link_to_it_load(copy, tmp_path):
    moved = copy.rename(tmp_path / "moved")
    (tmp_path / "link").symlink_to(moved)
    assert load_checkpoint(moved).config == load_checkpoint(tmp_path / "link").config == CONFIG


def test_a_relative_path_works(saved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_checkpoint("here", CHECKPOINT)
    assert load_checkpoint("here").config == CONFIG


@pytest.mark.parametrize("name", ["a b", "é 50%20#?&", "-x", "...", "~"])
def test_any_folder_name_works(tmp_path, name):
    save_checkpoint(tmp_path / name, CHECKPOINT)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert load_checkpoint(tmp_path / name).config == CONFIG


def test_a_checkpoint_without_a_classifier_round_trips(tmp_path):
    params = {"ast": CHECKPOINT.params["ast"]}
    save_checkpoint(tmp_path / "headless", CHECKPOINT._replace(params=params))
    assert set(load_checkpoint(tmp_path / "headless").params) == {"ast"}


def test_half_precision_parameters_are_loaded_as_float32(copy):
    import jax.numpy as jnp

    halves = jax.tree.map(lambda a: jnp.asarray(a, jnp.bfloat16), CHECKPOINT.params)
    save_params(copy, halves)
    loaded = load_checkpoint(copy).params["classifier"]["dense"]["kernel"]
    assert loaded.dtype == np.float32
    half = halves["classifier"]["dense"]["kernel"]
    np.testing.assert_array_equal(loaded, np.asarray(half).astype(np.float32))


# ---- saving


def test_an_existing_output_is_kept(saved):
    before = sorted(saved.rglob("*"))
    with pytest.raises(InputError, match=f"^{saved}: exists already; "):
        save_checkpoint(saved, CHECKPOINT)
    assert sorted(saved.rglob("*")) == before


# ---- damage


def test_a_checkpoint_with_a_damaged_file_is_refused_or_loads_completely(saved, tmp_path):
    files = sorted(path.relative_to(saved) for path in saved.rglob("*") if path.is_file())
    refused = set()
    for i, (file, share) in enumerate(itertools.product(files, (None, 0, 0.5, 0.95))):
        copy = shutil.copytree(saved, tmp_path / str(i))  # a new path, as TensorStore caches files
        if share is None:
            (copy / file).unlink()
        else:
            os.truncate(copy / file, int((copy / file).stat().st_size * share))
        try:
            params = load_checkpoint(copy).params
        except InputError:
            refused.add(file.parts[0])
        else:
            jax.tree.map(np.testing.assert_array_equal, params, CHECKPOINT.params)
    assert {"params", "config"} <= refused


def test_every_flipped_bit_is_seen_or_changes_nothing(saved, tmp_path):
    files = [path.relative_to(saved) for path in saved.rglob("*") if path.is_file()]
    sizes = [(saved / file).stat().st_size for file in files]
    rng, refused = random.Random(0), 0
    for i in range(120):
        (file,) = rng.choices(files, sizes)
        copy = shutil.copytree(saved, tmp_path / str(i))
        content = bytearray((copy / file).read_bytes())
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        (copy / file).write_bytes(content)
        try:
            config, extractor, params = load_checkpoint(copy)
        except InputError:
            refused += 1
        else:
            assert (config, extractor) == (CONFIG, EXTRACTOR)
            jax.tree.map(np.testing.assert_array_equal, params, CHECKPOINT.params)
    assert refused > 60


def test_another_number_or_word_is_named_by_its_checksum(copy):
    file = copy / "config" / "config.json"
    file.write_text(file.read_text().replace("-1.5", "-1.7"))
    assert refusal(copy) == (
        f"{file}: is not what was saved (its checksum differs); restore the checkpoint from a "
        f"copy, or remove {copy / 'checksums'} if you changed it on purpose"
    )
    shutil.rmtree(copy / "checksums")
    assert load_checkpoint(copy).feature_extractor.mean == -1.7


def test_damage_prints_no_traceback(saved, tmp_path):
    # Each of these raises for many arrays at once, for some after the first error was handled.
    for name, file, size in [("a", "manifest.ocdbt", None), ("b", "d", 1000), ("c", "d", None)]:
        params = shutil.copytree(saved, tmp_path / name) / "params"
        (path,) = (params / file).iterdir() if file == "d" else [params / file]
        path.unlink() if size is None else os.truncate(path, size)
    code = (
        "import gc, sys; from ast_jax.checkpoint.format import load_checkpoint\n"
        "for path in sys.argv[1:]:\n"
        "    try: load_checkpoint(path)\n"
        "    except ValueError: print('refused')\n"
        "gc.collect()"
    )
    command = [sys.executable, "-c", code, *(str(tmp_path / name) for name in "abcabc")]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (run.stdout, run.stderr) == ("refused\n" * 6, "")


def test_pipes_devices_broken_links_and_huge_files_are_not_read(copy):
    file = copy / "params" / "_METADATA"
    for make, reason in (
        (lambda file: file.touch() or os.truncate(file, 1 << 40), "has 1048576 MiB, and 64 MiB is"),
        (os.mkfifo, "is a pipe or a device"),
        (lambda file: file.symlink_to("/dev/zero"), "is a pipe or a device"),
        (lambda file: file.symlink_to("nowhere"), "No such file"),
    ):
        file.unlink()
        make(file)
        message = refusal(copy)
        assert message.startswith(f"{file}: ")
        assert reason in message


def test_a_chunk_larger_than_its_array_is_refused(copy):
    # TensorStore would decode the whole chunk.
    save_params(copy, changed("ast/layernorm/bias", np.zeros(900, np.float32)))
    store = {"driver": "ocdbt", "base": f"file://{copy}/params/", "path": "ast.layernorm.bias/"}
    array = tensorstore.open({"driver": "zarr", "kvstore": store}).result()
    array.resize(exclusive_max=[8]).result()
    assert "bias of shape (8,) is stored in chunks of shape (900,)" in refusal(copy)


@pytest.mark.parametrize("part", ["params", "config"])
def test_a_checkpoint_without_a_part_is_refused(copy, part):
    shutil.rmtree(copy / part)
    assert refusal(copy).startswith(f"{copy / part}")


def test_a_missing_moving_average_is_not_replaced_by_the_parameters(copy):
    file = copy / "checksums" / "checksums.json"
    sums = json.loads(file.read_text())
    moved = {f"ema/{name.removeprefix('params/')}": value for name, value in sums.items()}
    file.write_text(json.dumps(sums | moved))
    with pytest.raises(InputError, match=r"ema: no such folder; restore the checkpoint"):
        load_checkpoint(copy)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("", "cannot be read as JSON"),
        ("{", "cannot be read as JSON"),
        ("[]", "'model' is missing"),
        ("{}", "'model' is missing"),
        ('{"model": {}}', "'feature_extractor' is missing"),
        ('{"model": 3, "feature_extractor": {}}', "'model' is missing"),
    ],
)
def test_an_incomplete_description_is_refused(copy, content, complaint):
    (copy / "config" / "config.json").write_text(content)
    message = refusal(copy)
    assert message.startswith(f"{copy / 'config' / 'config.json'}: ")
    assert complaint in message


@pytest.mark.parametrize(
    ("part", "entries", "complaint"),
    [
        ("model", {"model_type": "vit"}, "model_type is 'vit'"),
        ("model", {"hidden_size": "8"}, "hidden_size is '8'; it must be a whole number from 1"),
        ("model", {"id2label": {"0": "a", "2": "b"}}, "id2label must name the classes 0 to 1"),
        ("model", {"max_length": 80}, "max_length is 80 for the model and 64 for the feature"),
        ("feature_extractor", {"std": 0}, "std"),
        ("feature_extractor", {"num_mel_bins": 16}, "num_mel_bins is 32 for the model and 16"),
    ],
)
def test_an_invalid_field_of_the_description_is_named(copy, part, entries, complaint):
    file = copy / "config" / "config.json"
    description = json.loads(file.read_text())
    description[part] |= entries
    file.write_text(json.dumps(description))
    message = refusal(copy)
    assert message.startswith(str(file))
    assert complaint in message


def changed(name, value):
    flat = traverse_util.flatten_dict(CHECKPOINT.params, sep="/")
    flat.pop(name, None)
    if value is not None:
        flat[name] = value
    return traverse_util.unflatten_dict(flat, sep="/")


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("ast/layernorm/bias", None, "is missing"),
        ("classifier/dense/bias", None, "is missing"),
        ("ast/extra", np.zeros(3, np.float32), "has no place in the model"),
        ("ast/layernorm/bias", np.zeros(9, np.float32), r"has shape \(9,\), .* requires \(8,\)"),
        ("ast/layernorm/bias", np.zeros((), np.float32), r"has shape \(\)"),
        ("ast/layernorm/bias", np.full(8, np.nan, np.float32), "holds NaN or infinite values"),
        ("ast/layernorm/bias", np.zeros(8, np.int32), "holds int32, not floating-point"),
    ],
)
def test_a_wrong_parameter_is_named(copy, name, value, complaint):
    save_params(copy, changed(name, value))
    with pytest.raises(InputError, match=f"^{copy / 'params'}: parameter {name} {complaint}"):
        load_checkpoint(copy)


def test_parameters_of_another_depth_are_refused(copy):
    config = CONFIG.replace(num_hidden_layers=3)
    save_params(copy, random_params(config))
    assert "has shape (3, " in refusal(copy)
