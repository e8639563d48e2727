import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ast_jax.checkpoint.torch_infer import (
    LENGTHS,
    STRIDES,
    infer_config,
    infer_encoder,
    square_grid,
)
from ast_jax.errors import InputError
from ast_jax.labels import class_names
from ast_jax.models.config import GEOMETRY, ASTConfig


def published(patches, classes=527, width=768, layers=12, mlp=3072):
    """Returns the tensors of an original checkpoint that inference reads, without memory."""
    shapes = {
        "v.cls_token": (1, 1, width),
        "v.pos_embed": (1, 2 + patches, width),
        "v.patch_embed.proj.weight": (width, 1, 16, 16),
        "mlp_head.1.weight": (classes, width),
    }
    for i in range(layers):
        shapes[f"v.blocks.{i}.norm1.weight"] = (width,)
        shapes[f"v.blocks.{i}.attn.qkv.bias"] = (3 * width,)
        shapes[f"v.blocks.{i}.mlp.fc1.weight"] = (mlp, width)
    return {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}


def infer(tensors, **geometry):
    return infer_config(tensors, "original", geometry, "x.pth")


def geometry_of(config):
    return {field: getattr(config, field) for field in GEOMETRY}


@pytest.mark.parametrize(
    ("file", "stride", "frames", "patches", "classes", "kind"),
    [
        ("audioset_10_10_0.4593", 10, 1024, 1212, 527, "multi"),
        ("audioset_10_10_0.4495", 10, 1024, 1212, 527, "multi"),
        ("audioset_10_10_0.4483", 10, 1024, 1212, 527, "multi"),
        ("audioset_10_10_0.4475", 10, 1024, 1212, 527, "multi"),
        ("audioset_12_12_0.4467", 12, 1024, 850, 527, "multi"),
        ("audioset_14_14_0.4431", 14, 1024, 657, 527, "multi"),
        ("audioset_16_16_0.4422", 16, 1024, 512, 527, "multi"),
        ("speechcommands_10_10_0.9812", 10, 128, 144, 35, "single"),
        ("audioset_bal_10_10_0.3499", 10, 1024, 1212, 527, "multi"),
    ],
)
def test_all_nine_published_files_are_inferred_without_flags(
    file, stride, frames, patches, classes, kind
):
    labels = class_names("audioset" if classes == 527 else "speech_commands_v2_35")
    assert infer(published(patches, classes)) == ASTConfig(
        frequency_stride=stride,
        time_stride=stride,
        max_length=frames,
        num_labels=classes,
        id2label=dict(enumerate(labels)),
        problem_type=f"{kind}_label_classification",
    )


@pytest.mark.parametrize("size", ["tiny224", "small224", "base224", "base384"])
def test_every_size_is_inferred(size):
    config = ASTConfig.from_size(size, num_labels=7, qkv_bias=False)
    tensors = published(1212, 7, config.hidden_size, mlp=config.intermediate_size)
    tensors = {name: t for name, t in tensors.items() if "qkv.bias" not in name}
    assert infer(tensors) == config


@settings(deadline=None)
@given(
    stride=st.sampled_from(STRIDES),
    frames=st.sampled_from(LENGTHS),
    given_fields=st.sets(st.sampled_from(GEOMETRY)),
)
def test_geometry_is_inferred_correctly_or_flags_are_requested(stride, frames, given_fields):
    true = ASTConfig(frequency_stride=stride, time_stride=stride, max_length=frames)
    known = {field: getattr(true, field) for field in given_fields}
    tensors = published(true.num_tokens - 2)
    alike = [
        (s, n)
        for s in (STRIDES if not given_fields & {"frequency_stride", "time_stride"} else [stride])
        for n in (LENGTHS if "max_length" not in given_fields else [frames])
        if ASTConfig(frequency_stride=s, time_stride=s, max_length=n).num_tokens == true.num_tokens
    ]
    if alike == [(stride, frames)]:
        assert geometry_of(infer(tensors, **known)) == geometry_of(true)
    else:
        with pytest.raises(InputError, match="match several inputs"):
            infer(tensors, **known)


@settings(deadline=None)
@given(
    geometry=st.fixed_dictionaries(
        {
            "frequency_stride": st.integers(1, 40),
            "time_stride": st.integers(1, 40),
            "max_length": st.integers(16, 3000),
            "num_mel_bins": st.integers(16, 256),
        }
    )
)
def test_any_geometry_can_be_passed(geometry):
    true = ASTConfig(**geometry)
    assert geometry_of(infer(published(true.num_tokens - 2), **geometry)) == geometry


def test_one_stride_sets_both_strides():
    true = ASTConfig(frequency_stride=8, time_stride=8)
    tensors = published(true.num_tokens - 2)
    assert geometry_of(infer(tensors, time_stride=8)) == geometry_of(true)
    assert geometry_of(infer(tensors, frequency_stride=8)) == geometry_of(true)


def test_an_ambiguous_number_of_patches_lists_the_inputs_and_names_the_flags():
    with pytest.raises(InputError) as caught:
        infer(published(64))
    message = str(caught.value)
    assert message.startswith("x.pth: 64 patches match several inputs (strides 15 and 15 over ")
    assert "strides 16 and 16 over 128 frames" in message
    for flag in ("--frequency-stride", "--time-stride", "--max-length", "--num-mel-bins"):
        assert flag in message


@pytest.mark.parametrize(
    ("patches", "known", "complaint"),
    [
        (1213, {}, "1213 patches match no common input; pass --"),
        (1212, {"time_stride": 16}, "match no common input with time_stride 16; pass --"),
        (0, {}, "0 patches match no common input"),
        (
            1212,
            {"frequency_stride": 0},
            "frequency_stride is 0; it must be a whole number from 1 to 1000000",
        ),
        (1212, {"max_length": 3}, "max_length 3 is smaller than one patch"),
    ],
)
def test_a_geometry_that_does_not_fit_is_refused(patches, known, complaint):
    with pytest.raises(InputError) as caught:
        infer(published(patches), **known)
    assert str(caught.value).startswith("x.pth: ")
    assert complaint in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "v.cls_token",
        "v.pos_embed",
        "v.patch_embed.proj.weight",
        "v.blocks.0.mlp.fc1.weight",
        "mlp_head.1.weight",
    ],
)
@pytest.mark.parametrize("shape", [(), (0,), (768,), (1, 0, 768), (1, 1, 1, 1, 1)])
def test_a_tensor_of_another_rank_is_named(name, shape):
    tensors = published(1212) | {name: np.zeros(shape, np.float32)}
    with pytest.raises(InputError, match=rf"^x.pth: tensor {name} has shape \("):
        infer(tensors)


@pytest.mark.parametrize("name", ["v.cls_token", "v.pos_embed", "v.blocks.0.mlp.fc1.weight"])
def test_a_missing_tensor_is_named(name):
    tensors = published(1212)
    del tensors[name]
    with pytest.raises(InputError, match=rf"^x.pth: tensor {name} is missing"):
        infer(tensors)


def test_layers_are_counted_by_any_of_their_tensors():
    tensors = published(1212, layers=3)
    del tensors["v.blocks.1.norm1.weight"]
    assert infer_encoder(tensors, "original", "x.pth")["num_hidden_layers"] == 3


def test_a_patch_larger_than_the_input_is_refused_with_the_files_name():
    tensors = published(1212) | {"v.patch_embed.proj.weight": np.zeros((768, 1, 200, 200))}
    with pytest.raises(InputError, match=r"^x\.pth: num_mel_bins 128 is smaller than one patch"):
        infer(tensors)


def test_a_width_that_is_no_multiple_of_64_needs_the_number_of_heads():
    with pytest.raises(InputError, match=r"^x\.pth: the width 96 .* give a folder with its config"):
        infer(published(1212, width=96))


@pytest.mark.parametrize("shape", [(1, 2 + 196, 64), (1, 3, 64)])
def test_the_grid_of_an_imagenet_checkpoint_is_square(shape):
    side = int((shape[1] - 2) ** 0.5)
    assert square_grid({"pos_embed": np.zeros(shape)}, "deit", 64, "x.pth") == (side, side)


@pytest.mark.parametrize("shape", [(1, 2 + 195, 64), (1, 2, 64), (1, 1, 64), (2, 6, 64), (1, 6, 8)])
def test_positions_of_a_grid_that_is_not_square_are_refused(shape):
    with pytest.raises(InputError, match=r"^x\.pth: tensor pos_embed has shape"):
        square_grid({"pos_embed": np.zeros(shape)}, "deit", 64, "x.pth")
