import numpy as np
import pytest

from ast_jax.audio.feature_extractor import ASTFeatureExtractor
from ast_jax.checkpoint.format import Checkpoint
from ast_jax.columns import Columns
from ast_jax.data.strong_labels import StrongLabels
from ast_jax.errors import InputError
from ast_jax.inference.classifier import AudioClassifier
from ast_jax.inference.streaming import StreamingClassifier
from ast_jax.models.ast import init_params
from tests.small_run import MODEL

CONFIG = MODEL.replace(
    frame_level=True, num_labels=3, time_stride=10, problem_type="multi_label_classification"
)
COLUMNS = Columns.of(CONFIG, 16000)  # 5 columns of 100 ms in an input of 655 ms


@pytest.fixture(scope="module")
def classifier():
    extractor = ASTFeatureExtractor(max_length=64, num_mel_bins=32)
    return AudioClassifier(Checkpoint(CONFIG, extractor, init_params(CONFIG)))


def noise(samples):
    return np.random.default_rng(0).uniform(-0.5, 0.5, samples).astype(np.float32)


@pytest.mark.parametrize("samples", [400, 2800, 10000, 10480, 10640, 10800, 12399, 16000, 30001])
def test_windows_are_the_columns_that_evaluation_scores(classifier, samples):
    waveform = noise(samples)
    windows = list(classifier.windows(waveform, sampling_rate=16000, batch_size=2))
    strong = StrongLabels.cut(["x"], [samples], [np.zeros((0, 3))], 3, COLUMNS)
    starts = [each.first * COLUMNS.hop for each in strong.inputs]
    cut = [waveform[start : start + COLUMNS.input_samples] for start in starts]
    outputs = classifier.probabilities(classifier.feature_extractor(cut, 16000))
    ((_, borders, expected),) = strong.by_recording(strong.scored(np.asarray(outputs)))
    np.testing.assert_allclose([window.start for window in windows], borders[:-1])
    np.testing.assert_allclose([window.end for window in windows], borders[1:])
    np.testing.assert_allclose([window.scores for window in windows], expected, atol=1e-6)


def test_a_call_returns_the_highest_score_over_time(classifier):
    waveform = noise(COLUMNS.input_samples)
    scores = classifier(waveform, top_k=3, sampling_rate=16000)
    columns = [window.scores for window in classifier.windows(waveform, sampling_rate=16000)]
    best = np.max(columns, axis=0)
    assert [each["score"] for each in scores] == pytest.approx(sorted(best, reverse=True))


def test_windows_of_a_length_and_streams_are_refused(classifier):
    with pytest.raises(InputError, match=r"the model is frame-level, .* leave window and hop out"):
        classifier.windows(noise(16000), window=0.5, sampling_rate=16000)
    with pytest.raises(InputError, match="a frame-level model scores whole inputs"):
        StreamingClassifier(classifier)


def test_windows_before_the_damage_of_a_file_are_yielded(classifier, tmp_path):
    import soundfile

    soundfile.write(tmp_path / "x.flac", noise(64000), 16000)
    content = (tmp_path / "x.flac").read_bytes()
    (tmp_path / "x.flac").write_bytes(content[: len(content) // 2])
    windows = []
    with pytest.raises(InputError, match=r"x\.flac"):
        windows.extend(classifier.windows(tmp_path / "x.flac"))
