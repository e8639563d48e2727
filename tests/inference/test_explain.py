import jax
import numpy as np
import pytest
from flax import nnx

from ast_jax.audio.fbank import fbank
from ast_jax.audio.feature_extractor import ASTFeatureExtractor
from ast_jax.audio.kaldi import mel_position
from ast_jax.checkpoint.format import Checkpoint
from ast_jax.errors import InputError
from ast_jax.inference import draw_explanation as drawing
from ast_jax.inference.classifier import AudioClassifier
from ast_jax.inference.explain import Explanation
from ast_jax.models.ast import param_shapes
from ast_jax.models.config import ASTConfig
from ast_jax.npz import read_npz
from tests.params import random_params

# Patches overlap; the last 6 frames and the last 2 mel bins have none.
CONFIG = ASTConfig(
    hidden_size=16,
    num_hidden_layers=3,
    num_attention_heads=2,
    intermediate_size=8,
    patch_size=8,
    frequency_stride=6,
    time_stride=7,
    max_length=98,
    num_mel_bins=22,
    num_labels=4,
    id2label={0: "rain", 1: "wind", 2: "café", 3: "owl"},
)
ROWS, COLUMNS = CONFIG.grid


@pytest.fixture(scope="module")
def classifier():
    params = random_params(CONFIG, 0.3)
    return AudioClassifier(
        Checkpoint(CONFIG, ASTFeatureExtractor(max_length=98, num_mel_bins=22), params)
    )


def noise(seconds):
    samples = round(16000 * seconds)
    return (0.1 * np.random.default_rng(1).standard_normal(samples)).astype(np.float32)


def explanation_of(maps, frames=98, method="relevance"):
    log_mel = np.random.default_rng(2).standard_normal((frames, 22)).astype(np.float32)
    maps = np.asarray(maps, np.float32)
    scores = np.array([0.75, 0.25], np.float32)
    return Explanation(method, maps, ["rain", "café"], scores, log_mel, 16000, CONFIG)


# ---- maps


def test_an_upsampled_map_peaks_at_the_patch_and_is_zero_without_patches():
    assert (ROWS, COLUMNS) == (3, 13)
    maps = np.zeros((2, ROWS, COLUMNS))
    maps[0, 1, 4] = 1
    maps[1] = 2
    one, constant = explanation_of(maps).upsample()
    assert one.shape == (98, 22)
    peak = np.argwhere(one == one.max())
    assert {tuple(each) for each in peak} == {(t, f) for t in (31, 32) for f in (9, 10)}
    assert one[24].max() == 0 < one[25].max()  # the centers of the neighbours are at 24.5 and 38.5
    np.testing.assert_allclose(constant[:92, :20], 2, rtol=1e-6)
    assert not constant[92:].any()
    assert not constant[:, 20:].any()


def test_a_short_sound_has_its_frames_only_and_the_share_of_padding():
    maps = np.ones((2, ROWS, COLUMNS))
    maps[0, :, 6:] = 3
    maps[1] = 0
    explanation = explanation_of(maps, frames=40)
    assert explanation.num_columns == 6  # the sixth has frames 35 to 42
    assert explanation.upsample().shape == (2, 40, 22)
    np.testing.assert_allclose(explanation.padding_share, [21 / 27, 0])
    assert explanation_of(maps, frames=36).num_columns == 6
    assert explanation_of(maps, frames=35).num_columns == 5
    assert explanation_of(maps).padding_share.tolist() == [0, 0]


def test_times_and_frequencies_are_those_of_centers():
    explanation = explanation_of(np.ones((2, ROWS, COLUMNS)))
    np.testing.assert_allclose(explanation.frame_times[:2], [0.0125, 0.0225])
    np.testing.assert_allclose(explanation.times[:2], [0.0125 + 0.035, 0.0125 + 0.105])
    positions = mel_position(explanation.mel_frequencies, 22, 16000)
    np.testing.assert_allclose(positions, np.arange(22), atol=1e-9)
    np.testing.assert_allclose(
        mel_position(explanation.frequencies, 22, 16000), [3.5, 9.5, 15.5], atol=1e-9
    )


# ---- classifier.explain


@pytest.mark.parametrize(
    ("method", "shape"),
    [
        ("relevance", (3, ROWS, COLUMNS)),
        ("rollout", (ROWS, COLUMNS)),
        ("heads", (3, 2, 2, ROWS, COLUMNS)),
    ],
)
def test_explains_the_most_probable_classes(classifier, method, shape):
    found = classifier.explain(noise(0.5), method=method, sampling_rate=16000)
    assert found.maps.shape == shape
    assert found.maps.min() >= 0 < found.maps.max()
    best = classifier(noise(0.5), top_k=3, sampling_rate=16000)
    assert found.labels == [each["label"] for each in best]
    np.testing.assert_allclose(found.scores, [each["score"] for each in best], rtol=1e-5)
    np.testing.assert_allclose(found.log_mel, fbank(noise(0.5), num_mel_bins=22), atol=1e-4)


def test_named_classes_have_the_maps_that_they_have_among_the_best(classifier):
    everything = classifier.explain(noise(1), top_k=4, sampling_rate=16000)
    named = classifier.explain(noise(1), ["café", "rain"], sampling_rate=16000)
    assert named.labels == ["café", "rain"]
    indices = [everything.labels.index(label) for label in named.labels]
    np.testing.assert_allclose(named.maps, everything.maps[indices], rtol=1e-5)
    np.testing.assert_allclose(named.scores, everything.scores[indices])
    assert not np.allclose(named.maps[0], named.maps[1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": ["owls"]}, "the model has no class 'owls'; did you mean owl?"),
        ({"labels": []}, r"labels is \[\]; give a list"),
        ({"labels": "owl"}, "labels is 'owl'; give a list"),
        ({"labels": ["owl"], "top_k": 1}, "labels and top_k are both given"),
        ({"top_k": 0}, "top_k"),
        ({"method": "gradcam"}, "method is 'gradcam'; give one of relevance, rollout, heads"),
    ],
)
def test_unusable_arguments_are_refused(classifier, options, message):
    with pytest.raises(InputError, match=message):
        classifier.explain(noise(0.5), sampling_rate=16000, **options)


def test_lists_and_iterators_are_explained_in_order(classifier):
    sounds = [noise(0.5), noise(1)]
    found = classifier.explain(sounds, method="rollout", sampling_rate=16000)
    assert [len(each.log_mel) for each in found] == [48, 98]
    one = classifier.explain(noise(1), method="rollout", sampling_rate=16000)
    np.testing.assert_array_equal(found[1].maps, one.maps)
    lazy = classifier.explain(iter(sounds), method="rollout", sampling_rate=16000)
    np.testing.assert_array_equal(next(lazy).maps, found[0].maps)


def test_a_model_that_masks_padding_sees_none(classifier):
    config = CONFIG.replace(mask_padding=True)
    params = nnx.to_pure_dict(nnx.state(classifier.model, nnx.Param))
    masked = AudioClassifier(Checkpoint(config, classifier.feature_extractor, params))
    sound = {"array": noise(0.5), "sampling_rate": 16000}
    assert classifier.explain(sound, method="rollout").padding_share > 0.1
    assert masked.explain(sound, method="rollout").padding_share == 0


def test_unusable_sounds_are_refused(classifier, tmp_path):
    with pytest.raises(InputError, match=r"none\.wav does not exist"):
        classifier.explain(tmp_path / "none.wav")
    with pytest.raises(InputError, match="frame"):
        classifier.explain(noise(0.01), sampling_rate=16000)


def test_a_model_of_nan_is_refused(classifier):
    params = jax.tree.map(lambda a: np.full(a.shape, np.nan, np.float32), param_shapes(CONFIG))
    broken = AudioClassifier(Checkpoint(CONFIG, classifier.feature_extractor, params))
    with pytest.raises(InputError, match="not finite"):
        broken.explain(noise(0.5), sampling_rate=16000)


# ---- files


def test_arrays_are_those_of_the_explanation(classifier, tmp_path):
    explanation = classifier.explain(noise(0.5), ["café", "owl"], sampling_rate=16000)
    explanation.save(tmp_path / "x.npz")
    arrays = read_npz(tmp_path / "x.npz")
    assert arrays["labels"].tolist() == ["café", "owl"]
    np.testing.assert_array_equal(arrays["maps"], explanation.maps)
    np.testing.assert_array_equal(arrays["upsampled"], explanation.upsample())
    assert arrays["upsampled"].shape[1:] == arrays["log_mel"].shape
    assert arrays["maps"].shape[1:] == (*arrays["frequencies"].shape, *arrays["times"].shape)
    assert arrays["log_mel"].shape == (
        *arrays["frame_times"].shape,
        *arrays["mel_frequencies"].shape,
    )
    with pytest.raises(InputError, match="exists already"):
        explanation.save(tmp_path / "x.npz")


@pytest.fixture
def drawn(monkeypatch):
    """Returns a function that draws an explanation and returns the figure."""
    figures = []
    monkeypatch.setattr(drawing, "save_figure", lambda figure, *_, **__: figures.append(figure))

    def draw(explanation, title=""):
        drawing.draw_explanation(explanation, None, title)
        return figures[-1]

    return draw


def test_a_picture_has_a_panel_with_axes_and_scale_for_each_class(drawn):
    maps = np.ones((2, ROWS, COLUMNS))
    maps[0, 0, 0] = 30
    maps[1, :, 6:] = 3
    figure = drawn(explanation_of(maps, frames=40), "$dog.wav")
    top, rain, cafe, *colorbars = figure.axes
    assert [axes.get_title(loc="left") for axes in (top, rain, cafe)] == [
        "$dog.wav",
        "rain   score 75.0%   (31% on the padding behind the sound)",
        "café   score 25.0%   (78% on the padding behind the sound)",
    ]
    assert cafe.get_xlabel() == "time (s)"
    np.testing.assert_allclose(cafe.get_xlim(), [0, 0.0125 + 0.39 + 0.005])  # without padding
    for axes in (top, rain, cafe):
        assert axes.get_ylabel() == "frequency (kHz)"
        assert [each.get_text() for each in axes.get_yticklabels()][:3] == ["0.25", "0.5", "1"]
    assert [each.get_ylabel() for each in colorbars] == [
        "log-mel (dB)", *["relevance\n(× its mean)"] * 2
    ]  # fmt: skip
    _, map_of_rain = rain.get_images()
    assert map_of_rain.get_array().max() == pytest.approx(30 / (47 / 18), rel=0.05)
    _, even = cafe.get_images()
    assert even.get_clim() == (1, drawing.LEAST_TOP)


def test_a_rollout_has_one_panel_and_heads_a_table(drawn):
    rollout = drawn(explanation_of(np.ones((ROWS, COLUMNS)), method="rollout"), "dog.wav")
    top, panel, *_ = rollout.axes
    assert top.get_title(loc="left") == "dog.wav   rain 75.0%   café 25.0%"
    assert panel.get_title(loc="left") == "attention rollout (the same for every class)"
    heads = drawn(explanation_of(np.full((3, 2, 2, ROWS, COLUMNS), 0.01), method="heads"))
    titles = [axes.get_title() for axes in heads.axes]
    assert [title for title in titles if title] == ["head 1", "head 2"]
    names = [axes.get_ylabel() for axes in heads.axes]
    assert {"layer 1", "layer 2", "layer 3", "frequency (kHz)", "log-mel (dB)"} <= {*names}


def test_digital_silence_and_a_map_of_zeros_are_drawn(tmp_path):
    explanation = explanation_of(np.zeros((2, ROWS, COLUMNS)))
    explanation.log_mel[:] = -15.9
    drawing.draw_explanation(explanation, tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(InputError, match="exists already"):
        drawing.draw_explanation(explanation, tmp_path / "x.png")
