import json
import warnings

import jax
import numpy as np
import pytest
from flax import nnx

from ast_jax import ASTForAudioClassification, ASTForAudioFrameClassification, ASTModel
from ast_jax.audio.feature_extractor import ASTFeatureExtractor
from ast_jax.checkpoint.format import Checkpoint, save_checkpoint
from ast_jax.checkpoint.torch_write import write_huggingface, write_original
from ast_jax.errors import InputError
from ast_jax.models.ast import init_params
from ast_jax.models.config import ASTConfig
from tests.small_run import MODEL

FRAMES = MODEL.replace(frame_level=True, num_labels=3, problem_type="multi_label_classification")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Returns the folders of a clip-level and a frame-level checkpoint of the same weights."""
    folder = tmp_path_factory.mktemp("checkpoints")
    extractor = ASTFeatureExtractor(max_length=64, num_mel_bins=32)
    for name, config in (("clips", FRAMES.replace(frame_level=False)), ("frames", FRAMES)):
        save_checkpoint(folder / name, Checkpoint(config, extractor, init_params(config)))
    return folder


def test_logits_are_those_of_the_mean_over_frequency_of_the_patches(saved):
    model = ASTForAudioFrameClassification.from_pretrained(saved / "frames")
    x = np.random.default_rng(0).normal(size=(2, 64, 32)).astype(np.float32)
    logits = model(x)
    assert logits.shape == (2, *FRAMES.output_shape) == (2, 4, 3)
    tokens = model.ast(x).last_hidden_state
    rows = tokens[:, 2:].reshape(2, 2, 4, 32)  # frequency-major
    np.testing.assert_allclose(logits, model.classifier(rows.mean(axis=1)), atol=1e-5)


def test_a_column_does_not_depend_on_the_order_of_other_clips_and_depends_on_its_sound(saved):
    model = ASTForAudioFrameClassification.from_pretrained(saved / "frames")
    x = np.zeros((1, 64, 32), np.float32)
    changed = x.copy()
    changed[:, 48:] = 3  # the frames of the last column
    difference = np.abs(np.asarray(model(changed) - model(x)))[0].max(axis=1)
    assert difference.argmax() == 3


def test_the_task_survives_saving_and_its_absence_means_clip_level(saved):
    content = json.loads((saved / "frames/config/config.json").read_text())["model"]
    assert content["frame_level"]
    assert content["architectures"] == ["ASTForAudioFrameClassification"]
    assert ASTConfig.from_pretrained(saved / "frames").frame_level
    clips = json.loads((saved / "clips/config/config.json").read_text())["model"]
    assert "frame_level" not in clips
    assert not ASTConfig.from_pretrained(saved / "clips").frame_level


def test_from_pretrained_keeps_the_encoder_and_tells_of_a_new_head(saved):
    with pytest.warns(UserWarning, match="is clip-level; its encoder is kept, and the frame-level"):
        model = ASTForAudioFrameClassification.from_pretrained(saved / "clips")
    same = ASTForAudioFrameClassification.from_pretrained(saved / "frames")  # no warning
    for one, other in zip(*(jax.tree.leaves(nnx.state(m.ast)) for m in (model, same)), strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(InputError, match="is a frame-level model; load it with ASTForAudioFrame"):
        ASTForAudioClassification.from_pretrained(saved / "frames")
    with pytest.warns(UserWarning, match="is frame-level; its encoder is kept, and the clip-level"):
        back = ASTForAudioClassification.from_pretrained(saved / "frames", frame_level=False)
    assert back(np.zeros((1, 64, 32), np.float32)).shape == (1, 3)
    with pytest.raises(InputError, match=r"config\.frame_level is False"):
        ASTForAudioFrameClassification(MODEL, rngs=nnx.Rngs(0))


def test_arguments_that_leave_patches_out_are_refused(saved):
    model = ASTForAudioFrameClassification.from_pretrained(saved / "frames")
    x = np.zeros((1, 64, 32), np.float32)
    for argument in ({"keep_indices": np.array([[0, 1]])}, {"num_frames": np.array([32])}):
        with pytest.raises(InputError, match="takes neither keep_indices nor num_frames"):
            model(x, **argument)


def test_export_to_pytorch_is_refused_and_that_of_the_encoder_is_not(saved, tmp_path):
    model = ASTForAudioFrameClassification.from_pretrained(saved / "frames")
    params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    checkpoint = Checkpoint(FRAMES, ASTFeatureExtractor(max_length=64, num_mel_bins=32), params)
    for write in (
        lambda: model.save_pretrained(tmp_path / "x"),
        lambda: write_huggingface(tmp_path / "x", checkpoint),
        lambda: write_original(tmp_path / "x", checkpoint),
    ):
        with pytest.raises(InputError, match="x: not written, as PyTorch's classes have no frame"):
            write()
        assert not (tmp_path / "x").exists()
    ASTModel.from_pretrained(saved / "frames").save_pretrained(tmp_path / "encoder")
    assert "frame_level" not in json.loads((tmp_path / "encoder/config.json").read_text())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of things that the file does not record
        ASTModel.from_pretrained(tmp_path / "encoder")
