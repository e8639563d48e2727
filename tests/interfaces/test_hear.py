import numpy as np
import pytest

from ast_jax.errors import InputError
from ast_jax.inference.classifier import load
from ast_jax.interfaces import hear
from tests.interfaces.clips import noise, samples_of

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def model(folder):
    return hear.load_model(str(folder))


def test_the_validator_of_hear_accepts_the_module(folder):
    validate = pytest.importorskip("hearvalidator.validate")
    validate.ValidateModel("ast_jax.interfaces.hear", str(folder), device="cpu")()


def test_scene_embeddings_are_those_of_the_classifier(model):
    audio = noise(3, samples_of(40))
    embeddings = hear.get_scene_embeddings(torch.from_numpy(audio), model)
    assert embeddings.dtype == torch.float32
    expected = model.classifier.embed(list(audio), sampling_rate=model.sample_rate)
    np.testing.assert_allclose(embeddings.numpy(), expected, rtol=1e-5, atol=1e-6)


def columns_of(classifier, waveform):
    """Returns the means over frequency of the patches of one model input."""
    return classifier.embed(waveform, "patches", sampling_rate=16000).mean(axis=0)


@pytest.mark.parametrize(
    ("frames", "columns"), [(1, 1), (8, 1), (9, 2), (13, 2), (48, 9), (49, 10), (93, 18), (94, 19)]
)
def test_columns_reach_the_last_frame_and_no_further(model, frames, columns):
    audio = torch.from_numpy(noise(2, samples_of(frames)))
    embeddings, times = hear.get_timestamp_embeddings(audio, model)
    assert embeddings.shape == (2, columns, model.timestamp_embedding_size)
    assert times.shape == (2, columns)
    # A column has 8 frames, which begin 10 ms apart and last 25 ms: 95 ms, of which 50 are a step.
    assert times[1].tolist() == [47.5 + 50 * i for i in range(columns)]


def test_no_sounds_have_no_timestamp_embeddings(model):
    embeddings, times = hear.get_timestamp_embeddings(torch.zeros(0, samples_of(94)), model)
    assert embeddings.shape == (0, 19, model.timestamp_embedding_size)
    assert times.shape == (0, 19)


def test_timestamp_embeddings_of_windows_follow_each_other(model):
    """The windows start at the columns 0, 9 and 18; the third has one column."""
    audio = noise(2, samples_of(94))
    embeddings, _ = hear.get_timestamp_embeddings(torch.from_numpy(audio), model)
    for waveform, found in zip(audio, embeddings.numpy(), strict=True):
        windows = [waveform[i * 9 * 5 * 160 :] for i in range(3)]
        expected = np.concatenate([columns_of(model.classifier, window) for window in windows])
        np.testing.assert_allclose(found, expected[:19], rtol=1e-5, atol=1e-6)


def test_columns_with_frames_between_them_follow_each_other(folder):
    classifier = load(folder, time_stride=10)
    audio = noise(1, samples_of(100))
    columns = hear.embed_columns(classifier, audio)
    expected = [columns_of(classifier, audio[0, start:]) for start in (0, 50 * 160)]
    np.testing.assert_allclose(columns[0], np.concatenate(expected), rtol=1e-5, atol=1e-6)
    assert hear.embed_columns(classifier, noise(1, samples_of(50))).shape[1] == 5


def test_errors_say_what_to_give(model, save_small):
    with pytest.raises(InputError, match=r"shape \(8000,\); give \(sounds, samples\)"):
        hear.get_scene_embeddings(torch.zeros(8000), model)
    for function in (hear.get_scene_embeddings, hear.get_timestamp_embeddings):
        with pytest.raises(InputError, match=r"sound 0 \(from 0\): .*399 samples"):
            function(torch.zeros(1, 399), model)
    with pytest.raises(InputError, match="8000 Hz, and HEAR has audio at 16000, 22050"):
        hear.load_model(str(save_small(sampling_rate=8000)))
