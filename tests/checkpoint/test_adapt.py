import jax
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ast_jax.checkpoint.adapt import adapt_params
from ast_jax.errors import InputError
from ast_jax.models.ast import init_params
from ast_jax.models.config import ASTConfig
from ast_jax.models.positions import resize_position_embeddings

TINY = ASTConfig(
    hidden_size=32,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=64,
    max_length=64,
    num_mel_bins=32,
    num_labels=3,
)


def torch_resize(embeddings, old, new):
    """Cuts or interpolates one axis after the other with PyTorch's bilinear interpolation."""
    grid = torch.from_numpy(embeddings[:, 2:]).reshape(1, *old, -1).permute(0, 3, 1, 2)
    for axis in (1, 0):
        size = list(grid.shape[2:])
        if new[axis] <= old[axis]:
            start = old[axis] // 2 - new[axis] // 2
            grid = grid.narrow(2 + axis, start, new[axis])
        else:
            size[axis] = new[axis]
            grid = torch.nn.functional.interpolate(grid, size=size, mode="bilinear")
    patches = grid.permute(0, 2, 3, 1).reshape(1, new[0] * new[1], -1).numpy()
    return np.concatenate([embeddings[:, :2], patches], axis=1)


grids = st.tuples(st.integers(1, 14), st.integers(1, 30))


@settings(max_examples=40, deadline=None)
@given(old=grids, new=grids)
def test_resizing_matches_pytorchs_interpolation_and_the_originals_cut(old, new):
    rng = np.random.default_rng(0)
    embeddings = rng.standard_normal((1, 2 + old[0] * old[1], 4), dtype=np.float32)
    ours = resize_position_embeddings(embeddings, old, new)
    np.testing.assert_allclose(ours, torch_resize(embeddings, old, new), atol=1e-5)


def test_the_same_grid_is_unchanged():
    embeddings = np.random.default_rng(0).standard_normal((1, 2 + 6, 4), dtype=np.float32)
    np.testing.assert_array_equal(
        resize_position_embeddings(embeddings, (2, 3), (2, 3)), embeddings
    )


def test_new_classes_change_only_the_head():
    params = init_params(TINY)
    new = adapt_params(params, TINY, TINY.replace(num_labels=7), seed=5)
    assert new["classifier"]["dense"]["kernel"].shape == (32, 7)
    jax.tree.map(np.testing.assert_array_equal, new["ast"], params["ast"])
    other = adapt_params(params, TINY, TINY.replace(num_labels=7), seed=6)
    assert not np.array_equal(
        new["classifier"]["dense"]["kernel"], other["classifier"]["dense"]["kernel"]
    )


def test_other_class_names_change_the_head_but_names_for_unnamed_classes_do_not():
    params = init_params(TINY)
    named = TINY.replace(id2label={0: "a", 1: "b", 2: "c"})
    first = adapt_params(params, TINY, named)
    assert first["classifier"] is params["classifier"]
    other = adapt_params(params, named, named.replace(id2label={0: "x", 1: "y", 2: "z"}))
    assert other["classifier"] is not params["classifier"]


def test_another_width_names_the_parameter():
    with pytest.raises(InputError, match="ast/embeddings/cls_token"):
        adapt_params(init_params(TINY), TINY, TINY.replace(hidden_size=64))
