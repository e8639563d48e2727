import itertools

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ast_jax.checkpoint.torch_read import read_torch_checkpoint
from ast_jax.checkpoint.torch_state_dict import find_state_dict, is_beside_model, normalize_names
from ast_jax.checkpoint.torch_write import write_huggingface
from ast_jax.errors import InputError

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

# ---- objects of the real libraries


@pytest.fixture(scope="module")
def models(original_tensors):
    """Returns a small model of each layout, as a PyTorch module."""
    original = torch.nn.Module()
    for name, tensor in original_tensors().items():
        *path, last = name.split(".")
        module = original
        for part in path:
            if part not in module._modules:
                module.add_module(part, torch.nn.Module())
            module = module._modules[part]
        module.register_parameter(last, torch.nn.Parameter(torch.from_numpy(tensor.copy())))
    sizes = {"hidden_size": 64, "num_attention_heads": 1, "intermediate_size": 32}
    config = transformers.ASTConfig(**sizes, num_hidden_layers=2, max_length=128, num_labels=3)
    classifier = transformers.ASTForAudioClassification(config)
    return {"original": original, "huggingface": classifier, "headless": classifier.base_model}


def wrap(name, model):
    """Returns a module that has `model` as the attribute `name`."""
    outer = torch.nn.Module()
    outer.add_module(name, model)
    return outer


def with_losses(model):
    """Returns a module as Lightning's users write it, with losses that have weights."""
    outer = wrap("net", model)
    outer.loss_fn = torch.nn.BCEWithLogitsLoss(pos_weight=torch.ones(5))
    outer.criterion = torch.nn.CrossEntropyLoss(weight=torch.ones(5))
    outer.train_loss = torch.nn.BCEWithLogitsLoss(pos_weight=torch.ones(5))
    outer.register_buffer("class_weights", torch.arange(5))
    return outer


def averaged(model):
    return torch.optim.swa_utils.AveragedModel(model)


def compiled(model):
    return torch.compile(model, backend="eager")  # the default backend takes seconds to import


SAVED = {
    "DataParallel": lambda model: torch.nn.DataParallel(model).state_dict(),
    "compiled": lambda model: compiled(model).state_dict(),
    "compiled DataParallel": lambda m: compiled(torch.nn.DataParallel(m)).state_dict(),
    "AveragedModel": lambda model: averaged(model).state_dict(),
    "averaged, compiled, wrapped": lambda m: wrap(
        "model", averaged(compiled(wrap("net", m)))
    ).state_dict(),
    "losses": lambda model: {"state_dict": with_losses(model).state_dict(), "epoch": 3},
    "training script": lambda model: {
        "epoch": 3,
        "loss": torch.tensor(0.1),
        "optimizer_state_dict": torch.optim.SGD(model.parameters(), momentum=0.9).state_dict(),
        "model_state_dict": torch.nn.DataParallel(model).state_dict(),
    },
    "nested": lambda model: {"model": {"state_dict": model.state_dict()}},
    "an EMA alone": lambda model: {"model_ema": {"module": averaged(model).state_dict()}},
    "one EMA module": lambda model: wrap("ema_model", model).state_dict(),
}


def assert_same_params(actual, expected):
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


@pytest.mark.parametrize("layout", ["original", "huggingface", "headless"])
def test_what_people_save_is_read_like_the_plain_state_dict(tmp_path, models, layout):
    torch.save(models[layout].state_dict(), tmp_path / "plain.pth")
    expected = read_torch_checkpoint(tmp_path / "plain.pth").checkpoint
    assert ("classifier" in expected.params) == (layout != "headless")
    for kind, save in SAVED.items():
        torch.save(save(models[layout]), tmp_path / f"{kind}.pth")
        checkpoint, _, guesses = read_torch_checkpoint(tmp_path / f"{kind}.pth")
        assert checkpoint[:2] == expected[:2], kind
        assert_same_params(checkpoint.params, expected.params)
        assert any("EMA copy" in guess for guess in guesses) == ("EMA" in kind), kind


def test_ignored_tensors_are_noted(tmp_path, models):
    from safetensors.torch import save_file

    state_dict = averaged(with_losses(models["original"])).state_dict()
    torch.save(state_dict, tmp_path / "x.pth")
    save_file(state_dict, tmp_path / "x.safetensors")
    for name in ("x.pth", "x.safetensors"):
        (note,) = (
            note
            for note in read_torch_checkpoint(tmp_path / name).notes
            if note.startswith("ignored")
        )
        for ignored in ("n_averaged", "module.loss_fn.pos_weight", "module.criterion.weight"):
            assert ignored in note
        assert "module.train_loss.pos_weight, " in note
        assert "module.class_weights, " in note


@pytest.mark.parametrize("online", ["net", "ema.online_model"])
def test_plain_weights_are_preferred_to_an_ema_module_beside_them(tmp_path, models, online):
    """The names are those of `ema_pytorch.EMA`, with and without the online model."""
    plain = models["original"].state_dict()
    content = {f"ema.ema_model.{name}": tensor + 1 for name, tensor in plain.items()}
    content |= {"ema.initted": torch.tensor(True), "ema.step": torch.tensor(7)}
    torch.save(content, tmp_path / "ema.pth")
    shifted, _, guesses = read_torch_checkpoint(tmp_path / "ema.pth")
    assert "as the file has no plain weights" in guesses[0]
    torch.save(content | {f"{online}.{n}": t for n, t in plain.items()}, tmp_path / "both.pth")
    both, _, guesses = read_torch_checkpoint(tmp_path / "both.pth")
    assert "the plain weights are used, and the EMA copy (ema.ema_model." in guesses[0]
    bias = plain["mlp_head.1.bias"].numpy()
    np.testing.assert_array_equal(both.params["classifier"]["dense"]["bias"], bias)
    np.testing.assert_array_equal(shifted.params["classifier"]["dense"]["bias"], bias + 1)


def test_the_plain_entry_of_a_training_script_is_preferred_and_named(tmp_path, models):
    plain = models["original"].state_dict()
    ema = {name: tensor + 1 for name, tensor in plain.items()}
    content = {"model_ema": {"state_dict": ema}, "model": plain, "epoch": 1}
    torch.save(content, tmp_path / "x.pth")
    checkpoint, _, guesses = read_torch_checkpoint(tmp_path / "x.pth")
    assert guesses[0] == "'model' is used, and 'model_ema.state_dict' (an EMA copy) is not"
    np.testing.assert_array_equal(
        checkpoint.params["classifier"]["dense"]["bias"], plain["mlp_head.1.bias"].numpy()
    )


def test_prefixes_in_a_hugging_face_folder_are_stripped(tmp_path, small_checkpoint):
    from safetensors.torch import load_file

    write_huggingface(tmp_path / "folder", small_checkpoint)
    file = tmp_path / "folder" / "model.safetensors"
    tensors = {f"module._orig_mod.{name}": t for name, t in load_file(file).items()}
    file.unlink()
    torch.save({"model_state_dict": tensors}, tmp_path / "folder" / "pytorch_model.bin")
    checkpoint = read_torch_checkpoint(tmp_path / "folder").checkpoint
    assert checkpoint[:2] == small_checkpoint[:2]
    assert_same_params(checkpoint.params, small_checkpoint.params)


# ---- any nesting

NAMES = {
    "original": ("v.cls_token", "v.blocks.0.mlp.fc1.bias", "mlp_head.0.bias"),
    "huggingface": (
        "audio_spectrogram_transformer.embeddings.cls_token",
        "audio_spectrogram_transformer.encoder.layer.0.output.dense.bias",
        "classifier.dense.bias",
    ),
    "deit": ("cls_token", "dist_token", "blocks.0.mlp.fc1.bias"),
}
PREFIXES = st.lists(st.sampled_from(["module", "_orig_mod", "model", "net", "ema_model"]))
PLAIN_KEYS = st.lists(st.sampled_from(["state_dict", "model", "model_state_dict"]), max_size=4)
BESIDE = st.sets(
    st.sampled_from(["n_averaged", "loss_fn.pos_weight", "criterion.weight", "loss.pos_weight"])
)


@given(
    checkpoint_format=st.sampled_from(list(NAMES)),
    prefixes=PREFIXES,
    keys=PLAIN_KEYS,
    ema_key=st.sampled_from([None, "model_ema"]),
    beside=BESIDE,
    both=st.booleans(),
)
def test_any_nesting_of_prefixes_and_wrappers_is_undone(
    checkpoint_format, prefixes, keys, ema_key, beside, both
):
    names = NAMES[checkpoint_format]
    tensors = {".".join([*prefixes, name]): np.full(1, i) for i, name in enumerate(names)}
    tensors |= {".".join([*prefixes, name]): np.zeros(1) for name in beside}
    content = tensors
    for key in keys:
        content = {key: content, "epoch": 3, "optimizer": {"state": {}}}
    if ema_key:
        content = {ema_key: content}
        if both:
            content["model"] = tensors
    found, notes = find_state_dict(content, np.ndarray)
    assert found is tensors
    # With `both`, one dict is found twice.
    assert bool(notes) == (bool(ema_key) and not both)
    found = {name: tensor for name, tensor in found.items() if not is_beside_model(name)}
    assert len(found) == len(names)
    renamed, normalized_format, notes = normalize_names(found, "x")
    assert (list(renamed), normalized_format) == (list(names), checkpoint_format)
    assert [int(tensor[0]) for tensor in renamed.values()] == [0, 1, 2]
    assert bool(notes) == ("ema_model" in prefixes)


def test_a_dict_that_contains_itself_ends_the_search():
    content = {"epoch": 3}
    for key in ("model", "state_dict", "ema", "net"):
        content[key] = content
    assert find_state_dict(content, np.ndarray) == ({}, [])
    deep = {"w": np.zeros(1)}
    for _ in range(10_000):
        deep = {"model": deep}
    assert find_state_dict(deep, np.ndarray) == ({}, [])


def test_no_name_of_the_table_is_taken_for_a_wrapper_or_a_loss(small_checkpoint):
    from ast_jax.checkpoint.torch_names import IGNORED, tensors_from_params

    layouts = ("original", "huggingface")
    names = [tensors_from_params(small_checkpoint.params, layout) for layout in layouts]
    for name in itertools.chain(IGNORED, *names):
        assert not is_beside_model(name)
    for tensors, layout in zip(names, layouts, strict=True):
        assert normalize_names(tensors, "x")[:2] == (tensors, layout)


# ---- names


def names_of(*names):
    return {name: np.zeros(1, np.float32) for name in names}


def test_the_prefix_of_data_parallel_is_dropped():
    tensors, checkpoint_format, _ = normalize_names(
        names_of("module.v.cls_token", "module.mlp_head.0.bias"), "x"
    )
    assert (list(tensors), checkpoint_format) == (["v.cls_token", "mlp_head.0.bias"], "original")


def test_a_distilled_deit_is_recognized_by_its_names():
    tensors, checkpoint_format, _ = normalize_names(
        names_of("cls_token", "dist_token", "blocks.0.a"), "x"
    )
    assert (list(tensors), checkpoint_format) == (["cls_token", "dist_token", "blocks.0.a"], "deit")


def test_a_deit_that_is_not_distilled_is_refused():
    with pytest.raises(InputError, match=r"^x: tensor dist_token is missing; .* .distilled. DeiT"):
        normalize_names(names_of("cls_token", "patch_embed.proj.weight"), "x")


@pytest.mark.parametrize("prefix", ["", "audio_spectrogram_transformer."])
def test_transformers_module_names_become_its_file_names(prefix):
    parts = [
        ("attention.q_proj", "attention.attention.query"),
        ("attention.k_proj", "attention.attention.key"),
        ("attention.v_proj", "attention.attention.value"),
        ("attention.o_proj", "attention.output.dense"),
        ("mlp.fc1", "intermediate.dense"),
        ("mlp.fc2", "output.dense"),
        ("layernorm_before", "layernorm_before"),
    ]
    memory = [f"{prefix}embeddings.cls_token", *(f"{prefix}layers.11.{m}.bias" for m, _ in parts)]
    tensors, checkpoint_format, _ = normalize_names(names_of(*memory), "x")
    whole = "audio_spectrogram_transformer."
    assert list(tensors) == [
        f"{whole}embeddings.cls_token",
        *(f"{whole}encoder.layer.11.{file}.bias" for _, file in parts),
    ]
    assert checkpoint_format == "huggingface"


def test_two_different_tensors_for_one_parameter_are_refused():
    tensors = names_of("v.a") | {"module.v.a": np.ones(1, np.float32)}
    with pytest.raises(InputError, match=r"tensors v\.a and module\.v\.a are .* and differ"):
        normalize_names(tensors, "x")


def test_a_module_that_is_saved_under_two_names_is_read_once():
    tensors = names_of("v.a", "module.v.a") | {"v.b": np.full(1, np.nan, np.float32)}
    assert list(normalize_names(tensors, "x").tensors) == ["v.a", "v.b"]


def test_the_tensors_of_another_model_are_refused():
    with pytest.raises(InputError, match=r"^x: neither an AST nor .* 2 tensors \(the first is a\)"):
        normalize_names(names_of("a", "b"), "x")
