import re
import tracemalloc

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from ast_jax.audio.feature_extractor import ASTFeatureExtractor
from ast_jax.errors import InputError
from ast_jax.inference.classifier import AudioClassifier
from ast_jax.inference.windows import WindowSlicer, aggregate, score_windows, slice_recording
from ast_jax.thresholds import Calibration, Thresholds

from .test_classifier import CONFIG, EXTRACTOR, checkpoint_of

RATE, SIZE, SHIFT = 16000, 400, 160


def noise(samples):
    return (0.1 * np.random.default_rng(0).standard_normal(samples)).astype(np.float32)


@pytest.fixture(scope="module")
def classifier():
    return AudioClassifier(checkpoint_of(CONFIG))


# ---- the inputs of windows


@settings(max_examples=60, deadline=None)
@given(
    samples=st.integers(400, 30000),
    window=st.floats(0.025, 0.48),
    hop=st.floats(0.01, 0.48),
    cuts=st.lists(st.integers(0, 30000), max_size=20),
)
def test_windows_have_the_inputs_of_clips_and_leave_no_frame_out(samples, window, hop, cuts):
    waveform = noise(samples)
    slicer = WindowSlicer(EXTRACTOR, window, min(hop, window))
    found = [w for chunk in np.split(waveform, sorted(cuts)) for w in slicer.push(chunk)]
    found += slicer.finish()
    heard = np.zeros(samples, bool)
    for i, (start, end, input_values) in enumerate(found):
        first, last = round(start * RATE), round(end * RATE)
        assert (first, start) == (i * slicer.hop_samples, first / RATE)
        assert last - first == round(window * RATE) or (last, i) == (samples, len(found) - 1)
        assert last <= samples
        np.testing.assert_array_equal(input_values, EXTRACTOR(waveform[first:last], RATE)[0])
        heard[first:last] = True
    # What is left is shorter than a frame, or a last part of a frame.
    assert (~heard).sum() < SIZE
    assert heard[: len(found) * slicer.hop_samples].all()


def test_the_default_is_the_models_input_without_overlap():
    slicer = WindowSlicer(ASTFeatureExtractor())
    assert (slicer.window, slicer.hop) == (10.24, 10.24)
    rate = 22050
    slicer = WindowSlicer(ASTFeatureExtractor(sampling_rate=rate))
    assert slicer.window == slicer.hop == 1024 * 220 / rate


def test_hops_are_rounded_to_whole_frames():
    assert WindowSlicer(EXTRACTOR, 0.3, 0.104).hop == 0.1
    assert WindowSlicer(EXTRACTOR, 0.106).hop == 0.1  # 0.11 would leave samples out


@pytest.mark.parametrize(
    ("window", "hop", "message"),
    [
        (0.024, None, "window is 0.024 s and a frame takes 0.025 s: give a longer window"),
        (0.6, None, "window is 0.6 s and the model's input has 0.495 s: give a shorter window"),
        (1e308, None, "window is 1e+308 s and the model's input has 0.495 s: give a shorter"),
        (0.4, 0.004, "hop is 0.004 s and frames are 0.01 s apart: give at least that"),
        (0.2, 0.3, "hop is 0.3 s and window 0.2 s, which leaves out what is between windows: "),
        (0, None, "window is 0: give a positive number of seconds"),
        (0.4, 0, "hop is 0: give a positive number of seconds"),
        (-1, None, "window is -1: give a positive"),
        (0.4, float("nan"), "hop is nan: give a positive"),
        (float("inf"), None, "window is inf: give a positive"),
        ("1", None, "window is '1': give a positive"),
        (True, None, "window is True: give a positive"),
    ],
)
def test_lengths_that_cannot_be_used_are_refused_at_once(classifier, window, hop, message):
    with pytest.raises(InputError, match=f"^{re.escape(message)}"):
        classifier.windows("none.wav", window, hop)


# ---- scores


@settings(max_examples=15, deadline=None)
@given(samples=st.integers(400, 20000), batch_size=st.integers(1, 5), file=st.booleans())
def test_scores_are_those_of_clips(classifier, samples, batch_size, file, tmp_path_factory):
    waveform = noise(samples)
    sound = {"array": waveform, "sampling_rate": RATE}
    if file:
        sound = tmp_path_factory.getbasetemp() / "clip.wav"
        soundfile.write(sound, waveform, RATE, "FLOAT")
    windows = list(classifier.windows(sound, 0.3, 0.1, batch_size=batch_size))
    for start, end, scores in windows:
        clip = waveform[round(start * RATE) : round(end * RATE)]
        expected = classifier(clip, None, RATE)
        assert scores.argmax() == classifier.labels.index(expected[0]["label"])
        np.testing.assert_allclose(np.sort(scores)[::-1], [x["score"] for x in expected], rtol=1e-5)
    assert windows[-1].end == samples / RATE or samples / RATE - windows[-1].end < 0.025


def test_scores_are_calibrated(classifier):
    scale, bias = np.array([0.5, 1, 2, 1]), np.array([1, 0, 0, -1])
    labels = CONFIG.labels[::-1]
    thresholds = Thresholds(labels, np.full(4, 0.5), Calibration(scale[::-1], bias[::-1]))
    (found,) = classifier.windows(noise(4000), sampling_rate=RATE, thresholds=thresholds)
    results = classifier(noise(4000), None, RATE, function_to_apply="none")
    logits = {result["label"]: result["score"] for result in results}
    odds = np.exp(scale * [logits[label] for label in CONFIG.labels] + bias)
    np.testing.assert_allclose(found.scores, odds / odds.sum(), rtol=1e-5)
    plain = Thresholds(labels, np.full(4, 0.5))
    for options in ({}, {"thresholds": plain}):
        (found,) = classifier.windows(noise(4000), sampling_rate=RATE, **options)
        assert classifier.best_labels(found.scores, None)[0] == results[0] | {
            "score": pytest.approx(max(found.scores))
        }


def test_a_recording_is_resampled_as_a_whole(classifier, tmp_path):
    soundfile.write(tmp_path / "a.wav", noise(44100), 44100, "FLOAT")
    array = {"array": noise(44100), "sampling_rate": 44100}
    for sound in (str(tmp_path / "a.wav"), (tmp_path / "a.wav").read_bytes()):
        found = zip(classifier.windows(sound, 0.2), classifier.windows(array, 0.2), strict=True)
        for window, expected in found:
            assert window[:2] == expected[:2]
            np.testing.assert_array_equal(window.scores, expected.scores)


def test_one_shape_is_compiled_and_windows_come_as_they_are_computed():
    classifier = AudioClassifier(checkpoint_of(CONFIG))
    pushed = []

    def blocks():
        for i in range(100):
            pushed.append(i)
            yield noise(1600)

    slicer = WindowSlicer(EXTRACTOR, 0.3, 0.1)
    windows = score_windows(slice_recording(blocks(), slicer), classifier.probabilities, 4)
    next(windows)
    assert len(pushed) == 3 - 1 + 2 * 4  # the next batch is read while the device computes
    assert len(list(windows)) == 97
    assert classifier._scorer._apply_model._cache_size() == 1


def test_the_windows_before_damage_are_kept(classifier, tmp_path):
    samples = noise(48000)
    samples[40000] = np.nan  # in the third block of the file
    soundfile.write(tmp_path / "a.wav", np.repeat(samples, 4), 16000 * 4, "FLOAT")
    windows = classifier.windows(tmp_path / "a.wav", 0.3, batch_size=3)
    found = []
    with pytest.raises(InputError, match=rf"^{tmp_path}/a.wav holds NaN or infinite samples"):
        found.extend(windows)
    assert len(found) >= 6
    assert 1.9 < found[-1].end <= 2.5


@pytest.mark.parametrize(
    ("sound", "message"),
    [
        (np.zeros(399, np.float32), "the recording has 399 samples and a frame takes 400: give"),
        (np.zeros(0, np.float32), "the waveform is empty"),
        ("none.wav", "none.wav does not exist"),
        (None, "an input of type NoneType is not a sound"),
    ],
)
def test_a_sound_that_cannot_be_used_is_refused_as_it_is_read(classifier, sound, message):
    windows = classifier.windows(sound, 0.3, sampling_rate=RATE)
    with pytest.raises(InputError, match=f"^{message}"):
        next(windows)


def test_a_short_file_is_named(classifier, tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(399), RATE)
    with pytest.raises(InputError, match=rf"^{tmp_path}/a.wav: the recording has 399 samples"):
        list(classifier.windows(tmp_path / "a.wav"))


def test_memory_does_not_grow_with_the_length():
    block = noise(65536)

    def peak(num_blocks):
        slicer = WindowSlicer(ASTFeatureExtractor(), 10, 5)
        tracemalloc.start()
        for _ in slice_recording((block for _ in range(num_blocks)), slicer):
            pass
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(1)
    assert peak(150) < 1.2 * peak(10)  # 10 minutes against 40 s


# ---- aggregates


def test_aggregates_are_the_formulas():
    scores = np.random.default_rng(0).uniform(size=(7, 5)).astype(np.float32)
    expected = {
        "mean": scores.mean(axis=0),
        "max": scores.max(axis=0),
        "noisy-or": 1 - (1 - scores).prod(axis=0),
    }
    for how, values in expected.items():
        found = aggregate(scores, how)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, values, rtol=1e-6)
        np.testing.assert_array_equal(aggregate(iter(scores), how), found)


@pytest.mark.parametrize(
    ("scores", "how", "message"),
    [
        (np.ones((1, 2), np.float32), "median", "the aggregate is 'median': give one of mean, max"),
        ([], "mean", "there are no windows to aggregate"),
    ],
)
def test_aggregates_that_cannot_be_computed_are_refused(scores, how, message):
    with pytest.raises(InputError, match=message):
        aggregate(scores, how)
