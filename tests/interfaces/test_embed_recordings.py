import itertools

import numpy as np
import pytest

from ast_jax.errors import InputError
from ast_jax.interfaces.embed_recordings import embed_recordings
from tests.interfaces.clips import RATE, noise, samples_of


def test_a_recording_is_the_mean_of_windows_where_patches_have_each_frame_once(classifier):
    """Patches reach 48 of 50 frames, or 7680 samples; the third window has the last 1680."""
    sounds = [noise(samples_of(n), seed=n) for n in (105, 50, 3)]
    embeddings = embed_recordings(classifier, iter(sounds), RATE, batch_size=2)
    windows = [sounds[0][i * 48 * 160 :] for i in range(3)]
    expected = np.array([7680, 7680, 1680]) / 17040 @ classifier.embed(windows, sampling_rate=RATE)
    np.testing.assert_allclose(embeddings[0], expected, rtol=1e-5, atol=1e-6)
    for embedding, sound in zip(embeddings[1:], sounds[1:], strict=True):
        expected = classifier.embed(sound, sampling_rate=RATE)
        np.testing.assert_allclose(embedding, expected, rtol=1e-5, atol=1e-6)
    assert embed_recordings(classifier, [], RATE, batch_size=2).shape == (0, 16)


def test_every_frame_of_a_long_recording_is_heard(classifier):
    sound = noise(samples_of(110))
    starts = range(0, len(sound) - 240, 160)
    changed = np.tile(sound, (len(starts), 1))
    for waveform, start in zip(changed, starts, strict=True):
        waveform[start : start + 160] = 0
    first, *others = embed_recordings(classifier, [sound, *changed], RATE, batch_size=8)
    assert min(np.abs(first - other).max() for other in others) > 1e-5


def test_sounds_are_read_as_they_are_embedded(classifier):
    read = itertools.count()
    sounds = (noise(8000) if next(read) < 4 else noise(10) for _ in range(9))
    with pytest.raises(InputError, match=r"sound 4 \(from 0\): .*10 samples"):
        embed_recordings(classifier, sounds, RATE, batch_size=2)
    assert next(read) == 5
