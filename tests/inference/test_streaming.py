import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ast_jax.errors import InputError
from ast_jax.inference.classifier import AudioClassifier
from ast_jax.inference.streaming import StreamingClassifier

from .test_classifier import CONFIG, checkpoint_of

RATE = 16000


def noise(*shape):
    return (0.1 * np.random.default_rng(0).standard_normal(shape)).astype(np.float32)


@pytest.fixture(scope="module")
def classifier():
    return AudioClassifier(checkpoint_of(CONFIG))


def stream(streaming, chunks, rate=RATE):
    windows = [window for chunk in chunks for window in streaming.push(chunk, rate)]
    return windows + streaming.finish()


def assert_equal(found, expected):
    assert [window[:2] for window in found] == [window[:2] for window in expected]
    for window, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(window.scores, other.scores)


@settings(max_examples=25, deadline=None)
@given(
    samples=st.integers(3000, 60000),
    rate=st.sampled_from([16000, 8000, 44100, 48000, 22050, 16001]),
    window=st.sampled_from([0.025, 0.1, 0.3, None]),
    hop=st.sampled_from([0.05, 0.1, 0.4]),
    cuts=st.lists(st.integers(0, 60000), max_size=30),
    int16=st.booleans(),
)
def test_a_stream_equals_the_windows_of_the_whole(
    classifier, samples, rate, window, hop, cuts, int16
):
    hop = min(hop, window or 0.4)
    waveform = noise(samples)
    if int16:
        waveform = (32768 * waveform).astype(np.int16)
    sound = {"array": waveform, "sampling_rate": rate}
    expected = list(classifier.windows(sound, window, hop, batch_size=1))
    streaming = StreamingClassifier(classifier, window, hop)
    assert_equal(stream(streaming, np.split(waveform, sorted(cuts)), rate), expected)


def test_single_samples_may_be_pushed(classifier):
    expected = list(classifier.windows(noise(1200), 0.05, sampling_rate=RATE, batch_size=1))
    streaming = StreamingClassifier(classifier, 0.05)
    assert_equal(stream(streaming, np.split(noise(1200), 1200)), expected)


def test_a_window_is_returned_with_its_last_sample(classifier):
    streaming = StreamingClassifier(classifier, 0.1, 0.05)
    # The eighth and last frame of a window of 1,600 samples ends 80 samples before it.
    cuts = [1599, 1600, 2399, 2400, 4000]
    counts = [len(streaming.push(chunk, RATE)) for chunk in np.split(noise(4100), cuts)]
    assert counts == [0, 1, 0, 1, 2, 0]
    assert [window[:2] for window in streaming.finish()] == [(0.2, 0.25625)]


def test_channels_are_averaged_as_those_of_files(classifier):
    for channels in (1, 2, 3):
        chunk = noise(9000, channels)
        expected = classifier.windows(chunk.mean(axis=1), 0.2, sampling_rate=RATE, batch_size=1)
        streaming = StreamingClassifier(classifier, 0.2)
        assert_equal(stream(streaming, np.split(chunk, [7, 500])), list(expected))


@pytest.mark.filterwarnings("ignore:the waveform reaches 1e")
def test_a_refused_chunk_leaves_the_stream_as_it_was(classifier):
    streaming = StreamingClassifier(classifier, 0.2)
    first, second = np.split(noise(9000), 2)
    found = streaming.push(first, 44100)
    refused = [
        (first, 16000, "changes from 44100 Hz and 1 channel to 16000 Hz and 1 channel: finish it"),
        (first.reshape(-1, 2), 44100, "to 44100 Hz and 2 channels"),
        (first.reshape(1, -1), 44100, r"the chunk has shape \(1, 4500\): give \(samples,\)"),
        (first.reshape(-1, 2, 2), 44100, r"shape \(1125, 2, 2\)"),
        (np.float32(1), 44100, r"shape \(\)"),
        (np.append(first, np.float32(np.nan)), 44100, "NaN"),
        (np.append(first, np.float32(1e16)), 44100, "the chunk reaches 1e"),
        (first.astype(np.int32), 44100, "is int32"),
        (first, None, "sampling_rate is missing"),
        (first, 0, "sampling_rate is 0"),
    ]
    for chunk, rate, message in refused:
        with pytest.raises(InputError, match=message):
            streaming.push(chunk, rate)
    assert streaming.push(np.empty(0, np.float32), 44100) == []
    found += streaming.push(second, 44100) + streaming.finish()
    assert_equal(
        found, list(classifier.windows(noise(9000), 0.2, sampling_rate=44100, batch_size=1))
    )


def test_a_stream_that_is_finished_starts_over(classifier):
    streaming = StreamingClassifier(classifier, 0.1)
    with pytest.raises(InputError, match="has 0 samples"):
        streaming.finish()
    streaming.push(noise(399), RATE)
    with pytest.raises(InputError, match="has 399 samples"):
        streaming.finish()
    first = stream(streaming, [noise(5000)])
    other = stream(streaming, [noise(5000, 2)], 8000)  # another rate, and channels
    assert [window.start for window in other[:3]] == [0, 0.1, 0.2]
    assert_equal(stream(streaming, [noise(5000)]), first)


def test_the_model_is_compiled_before_the_first_chunk():
    classifier = AudioClassifier(checkpoint_of(CONFIG))
    streaming = StreamingClassifier(classifier, 0.1)
    compiled = classifier._scorer._apply_model._cache_size()
    assert compiled
    stream(streaming, [noise(5000)])
    assert classifier._scorer._apply_model._cache_size() == compiled


def test_memory_does_not_grow_with_the_stream(classifier):
    streaming = StreamingClassifier(classifier, 0.4, 0.4)
    chunk = noise(2**16)
    peaks = []
    tracemalloc.start()
    for _ in range(3):
        for _ in range(8):
            streaming.push(chunk, 48000)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.reset_peak()
    tracemalloc.stop()
    assert peaks[-1] < 1.1 * peaks[0] + 2**16


def test_lengths_that_cannot_be_used_are_refused(classifier):
    for window, hop, message in [(0.5, None, "window is 0.5 s"), (0.2, 0, "hop is 0")]:
        with pytest.raises(InputError, match=message):
            StreamingClassifier(classifier, window, hop)
