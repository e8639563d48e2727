"""Compares evaluations of checkpoints with each clip's logits and with scikit-learn."""

import jax
import numpy as np
import pytest
import soundfile
from flax import nnx
from scipy import signal
from scipy.sparse import csr_array
from sklearn.metrics import accuracy_score, average_precision_score, log_loss, roc_auc_score

from ast_jax.audio.feature_extractor import ASTFeatureExtractor
from ast_jax.checkpoint.format import Checkpoint, save_checkpoint
from ast_jax.data.clips import Clips
from ast_jax.data.prepare.run_builder import prepare
from ast_jax.errors import InputError
from ast_jax.evaluation import checkpoints as module
from ast_jax.evaluation.checkpoints import (
    ensemble,
    evaluate,
    evaluate_checkpoints,
    match_classes,
    predict_checkpoint,
)
from ast_jax.evaluation.evaluation_set import (
    add_missing_classes,
    check_disjoint,
    read_evaluation_set,
)
from ast_jax.inference.classifier import AudioClassifier
from ast_jax.models.ast import ASTForAudioClassification
from ast_jax.models.config import ASTConfig
from tests.params import random_params
from tests.raw_sets import write_esc50

LABELS = ["bark", "meow", "owl"]
RATE = 16000
SINGLE, MULTI = "single_label_classification", "multi_label_classification"


@nnx.jit
def forward(model, input_values):
    return model(input_values)


def make_checkpoint(seed, problem_type=SINGLE, rate=RATE, mean=-4.0, **changes):
    """Returns a random model whose logits for `make_clips` have mean 0 and deviation 1."""
    fields = {
        "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 1,
        "intermediate_size": 32, "max_length": 32, "num_mel_bins": 32,
        "id2label": dict(enumerate(LABELS)), "num_labels": 3, "problem_type": problem_type,
    }  # fmt: skip
    config = ASTConfig(**fields | changes)
    extractor = ASTFeatureExtractor(
        sampling_rate=rate,
        num_mel_bins=config.num_mel_bins,
        max_length=config.max_length,
        mean=mean,
    )
    params = random_params(config, 0.3, seed=seed)
    inputs = extractor(make_clips().waveforms, rate)
    logits = forward(ASTForAudioClassification.from_params(config, params), inputs)
    head = params["classifier"]["dense"]
    head["kernel"] /= logits.std(axis=0)
    head["bias"] = (head["bias"] - logits.mean(axis=0)) / logits.std(axis=0)
    return Checkpoint(config, extractor, jax.tree.map(np.asarray, params))


def make_clips(problem_type=SINGLE, count=11):
    """Returns noise with different spectra and lengths; `count` does not fill the last batch."""
    rng = np.random.default_rng(1)
    waveforms = [
        signal.lfilter([1e-3 * 1.5**i], [1, -tilt], rng.standard_normal(1500 + 500 * i))
        for i, tilt in enumerate(rng.permutation(np.linspace(-0.9, 0.9, count)))
    ]
    waveforms = [waveform.astype(np.float32) for waveform in waveforms]
    targets = np.eye(3, dtype=np.float32)[rng.permutation(np.arange(count) % 3)]
    if problem_type == MULTI:
        targets = np.maximum(targets, np.roll(targets, 1, axis=0))
    return Clips(waveforms, targets, [f"clip {i}" for i in range(count)])


def logits_by_hand(checkpoint, clips):
    config, extractor, params = checkpoint
    model = ASTForAudioClassification.from_params(config, params)
    rate = extractor.sampling_rate
    return np.concatenate([forward(model, extractor(wave, rate)) for wave in clips.waveforms])


def probabilities_by_hand(checkpoint, clips):
    logits = logits_by_hand(checkpoint, clips).astype(np.float64)
    if checkpoint.config.problem_type == MULTI:
        return 1 / (1 + np.exp(-logits))
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


def loss_by_hand(probabilities, targets, problem_type):
    if problem_type == SINGLE:
        return log_loss(targets.argmax(axis=1), probabilities, labels=range(3))
    return log_loss(targets.ravel(), probabilities.ravel())


def check_scores(scores, values, targets):
    """Asserts that scores are scikit-learn's for these values."""
    best = accuracy_score(targets.argmax(axis=1), values.argmax(axis=1))
    assert scores.accuracy == pytest.approx(best)
    expected = average_precision_score(targets, values)
    assert scores.mean_average_precision == pytest.approx(expected)
    assert scores.mean_auc == pytest.approx(roc_auc_score(targets, values))


# ---- one checkpoint


@pytest.mark.parametrize("problem_type", [SINGLE, MULTI])
def test_scores_match_scikit_learn_and_ignore_padding(problem_type):
    checkpoint, clips = make_checkpoint(0, problem_type), make_clips(problem_type)
    found = evaluate(checkpoint, clips, LABELS, RATE, batch_size=4)
    probabilities = probabilities_by_hand(checkpoint, clips)
    assert len(set(probabilities.argmax(axis=1))) == 3
    assert found.probabilities.shape == (11, 3)
    assert found.probabilities.dtype == np.float32
    np.testing.assert_allclose(found.probabilities, probabilities, atol=1e-5)
    check_scores(found.metrics, probabilities, clips.targets)
    expected = loss_by_hand(probabilities, clips.targets, problem_type)
    assert found.metrics.loss == pytest.approx(expected, rel=1e-4)
    np.testing.assert_array_equal(found.per_class.clips, clips.targets.sum(axis=0))
    np.testing.assert_allclose(
        found.per_class.average_precision,
        average_precision_score(clips.targets, probabilities, average=None),
    )


def test_scores_do_not_depend_on_batch_size_workers_and_frontend():
    checkpoint, clips = make_checkpoint(0), make_clips()
    whole = evaluate(checkpoint, clips, LABELS, RATE)
    for options in ({"batch_size": 1}, {"batch_size": 9}, {"batch_size": 3, "workers": 1}):
        found = evaluate(checkpoint, clips, LABELS, RATE, **options)
        np.testing.assert_allclose(found.probabilities, whole.probabilities, atol=1e-6)
        assert found.metrics._replace(loss=0) == whole.metrics._replace(loss=0)
    on_device = evaluate(checkpoint, clips, LABELS, RATE, on_device=True)
    # The device gets 16-bit waveforms.
    np.testing.assert_allclose(on_device.probabilities, whole.probabilities, atol=5e-3)


def test_few_clips_use_the_smallest_batch_that_splits(monkeypatch):
    sizes = []

    class Watched(module.EvaluationBatches):
        def __call__(self, *arguments):
            batch = super().__call__(*arguments)
            sizes.append(len(batch["mask"]))
            return batch

    monkeypatch.setattr(module, "EvaluationBatches", Watched)
    assert len(jax.local_devices()) == 8
    logits = predict_checkpoint(make_checkpoint(0), make_clips(count=3), 32, 0, False, "")
    assert (logits.shape, sizes) == ((3, 3), [8])


def test_classes_in_another_order_are_matched_by_name():
    checkpoint, clips = make_checkpoint(0), make_clips()
    order = [2, 0, 1]
    head = checkpoint.params["classifier"]["dense"]
    moved = {"kernel": head["kernel"][:, order], "bias": head["bias"][order]}
    params = checkpoint.params | {"classifier": checkpoint.params["classifier"] | {"dense": moved}}
    config = checkpoint.config.replace(id2label={i: LABELS[j] for i, j in enumerate(order)})
    expected = evaluate(checkpoint, clips, LABELS, RATE)
    found = evaluate(Checkpoint(config, checkpoint.feature_extractor, params), clips, LABELS, RATE)
    np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-6)
    assert found.metrics.loss == pytest.approx(expected.metrics.loss)
    assert found.metrics._replace(loss=0) == expected.metrics._replace(loss=0)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["bark", "meow"], "has a class 'owl' that the data or another checkpoint lacks; give"),
        ([*LABELS, "wolf"], "has no class 'wolf', and the data has; give"),
        (["bark", "meow", "wolf"], "has no class 'wolf', and the data has; give"),
    ],
)
def test_a_class_missing_on_either_side_is_named(labels, message):
    config, extractor, _ = make_checkpoint(0)
    with pytest.raises(InputError, match=f"^runs/x: {message}"):
        match_classes(config, extractor, labels, RATE, "runs/x")


def test_a_model_without_names_uses_the_datas_order_for_the_same_number():
    config, extractor, _ = make_checkpoint(0, id2label=None)
    assert match_classes(config, extractor, ["c", "a", "b"], RATE, "x.pth") == [0, 1, 2]
    with pytest.raises(
        InputError, match=r"^x\.pth: has 3 classes without names and the data has 2;"
    ):
        match_classes(config, extractor, ["a", "b"], RATE, "x.pth")


def test_another_sampling_rate_is_refused():
    checkpoint = make_checkpoint(0, rate=8000)
    with pytest.raises(InputError, match=r"^the checkpoint: takes sound at 8000 Hz and the clips"):
        evaluate(checkpoint, make_clips(), LABELS, RATE)


def test_nonfinite_output_is_refused():
    checkpoint = make_checkpoint(0)
    params = jax.tree.map(lambda a: np.full_like(a, 1e38), checkpoint.params)
    with pytest.raises(InputError, match=r"^runs/x: the model's output is not finite: parameters"):
        evaluate(checkpoint._replace(params=params), make_clips(), LABELS, RATE, source="runs/x")


# ---- ensembles


@pytest.mark.parametrize("problem_type", [SINGLE, MULTI])
def test_an_ensemble_scores_the_mean_probabilities(problem_type):
    clips = make_clips(problem_type)
    models = [make_checkpoint(seed, problem_type) for seed in range(3)]
    each = [evaluate(model, clips, LABELS, RATE).probabilities for model in models]
    found = ensemble(each, clips.targets, problem_type)
    expected = np.mean([probabilities_by_hand(model, clips) for model in models], axis=0)
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-5)
    assert found.probabilities.dtype == np.float32
    check_scores(found.metrics, expected, clips.targets)
    loss = loss_by_hand(expected, clips.targets, problem_type)
    assert found.metrics.loss == pytest.approx(loss, rel=1e-4)


@pytest.mark.parametrize("problem_type", [SINGLE, MULTI])
def test_an_ensemble_of_one_model_twice_scores_as_the_model(problem_type):
    clips = make_clips(problem_type)
    alone = evaluate(make_checkpoint(0, problem_type), clips, LABELS, RATE)
    twice = ensemble([alone.probabilities] * 2, clips.targets, problem_type)
    assert twice.metrics.loss == pytest.approx(alone.metrics.loss)
    assert twice.metrics._replace(loss=0) == alone.metrics._replace(loss=0)


@pytest.mark.parametrize("problem_type", [SINGLE, MULTI])
def test_a_confident_wrong_ensemble_has_a_finite_loss(problem_type):
    targets = np.eye(3, dtype=np.float32)
    found = ensemble([np.roll(targets, 1, axis=0)] * 2, targets, problem_type)
    assert 10 < found.metrics.loss < 100
    assert found.metrics.accuracy == 0


# ---- data and checkpoints from disk


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """Returns a folder with four sound files per class, at 8000 Hz."""
    folder = tmp_path_factory.mktemp("sounds")
    rng = np.random.default_rng(0)
    for label in LABELS:
        (folder / label).mkdir()
        for i in range(4):
            noise = signal.lfilter([0.03 * i + 0.01], [1, 0.4 * i - 0.6], rng.standard_normal(4000))
            soundfile.write(folder / label / f"{i}.wav", noise, 8000)
    return folder


@pytest.fixture(scope="module")
def prepared(sounds, tmp_path_factory):
    """Returns `sounds` prepared as `folder`, and with three splits as `csv`."""
    output = tmp_path_factory.mktemp("prepared")
    prepare("folder", sounds, output, processes=1)
    lines = [
        f"{label}/{i}.wav,{label},{split}"
        for label in LABELS
        for i, split in enumerate(("train", "validation", "test"))
    ]
    (sounds / "list.csv").write_text("\n".join(["path,labels,split", *lines]))
    prepare("csv", sounds, output, processes=1)
    return output


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Returns checkpoints with different inputs, rates and labels."""
    folder = tmp_path_factory.mktemp("saved")
    other = {"time_stride": 5, "frequency_stride": 8, "max_length": 48, "num_mel_bins": 24}
    models = {
        "one": make_checkpoint(0),
        "two": make_checkpoint(1, mean=-7.0, **other),
        "multi": make_checkpoint(2, MULTI),
        "slow": make_checkpoint(3, rate=8000),
        "unnamed": make_checkpoint(4, id2label=None),
        "wolf": make_checkpoint(5, id2label={0: "bark", 1: "meow", 2: "wolf"}),
    }
    for name, model in models.items():
        save_checkpoint(folder / name, model)
    return {name: (str(folder / name), model) for name, model in models.items()}


def test_a_fold_of_esc50_is_evaluated_from_its_files(tmp_path):
    write_esc50(tmp_path, np.random.default_rng(0))
    data = read_evaluation_set(tmp_path, RATE, split="fold2+fold3")
    assert (data.split, data.labels) == ("fold2+fold3", ["dog", "rain"])
    assert [name.rpartition("/")[2] for name in data.clips.names] == [
        "2-1-A-0.wav", "2-1-A-10.wav", "3-1-A-0.wav", "3-1-A-10.wav",
    ]  # fmt: skip
    with pytest.raises(InputError, match=r"has the splits fold1, fold2.*say with --split which"):
        read_evaluation_set(tmp_path, RATE)


def test_a_prepared_sets_default_is_the_held_out_split(prepared):
    data = read_evaluation_set(prepared, RATE, name="folder")
    assert (data.split, data.labels, data.sampling_rate) == ("test", LABELS, RATE)
    assert data.folder == str(prepared / "folder" / "1.0.0")
    assert 3 <= len(data.clips.waveforms) < 12
    both = read_evaluation_set(prepared, RATE, name="folder", split="train + test")
    assert len(both.clips.waveforms) == len(set(both.clips.names)) == 12
    by_path = read_evaluation_set(prepared / "folder" / "1.0.0", RATE)
    assert list(by_path.clips.names) == list(data.clips.names)


def test_clips_that_are_evaluated_cannot_choose(prepared, sounds):
    data = read_evaluation_set(prepared, RATE, name="folder", split="train + test")
    check_disjoint(data, "validation")
    with pytest.raises(InputError, match="split 'test' is evaluated; name another split to choose"):
        check_disjoint(data, "validation + test")
    with pytest.raises(
        InputError, match="all files are evaluated, those of split 'train' too; say"
    ):
        check_disjoint(read_evaluation_set(sounds, RATE), "train")


def test_several_held_out_splits_need_a_choice(prepared):
    with pytest.raises(InputError, match="has the splits train, validation, test; say with --spl"):
        read_evaluation_set(prepared, RATE, name="csv")
    data = read_evaluation_set(prepared, RATE, name="csv", split="test")
    assert list(data.clips.names) == [f"{label}/2.wav" for label in LABELS]


def test_esc50_needs_a_fold(tmp_path):
    (tmp_path / "audio").mkdir()
    (tmp_path / "meta").mkdir()
    lines = ["filename,fold,target,category"]
    for i in range(4):
        soundfile.write(tmp_path / "audio" / f"{i}.wav", 0.1 * np.ones(8000), RATE)
        lines.append(f"{i}.wav,{i // 2 + 1},{i % 2},{LABELS[i % 2]}")
    (tmp_path / "meta" / "esc50.csv").write_text("\n".join(lines))
    prepare("esc50", tmp_path, tmp_path / "out", processes=1)
    with pytest.raises(InputError, match="has the splits fold1, fold2; say with --split"):
        read_evaluation_set(tmp_path / "out", RATE)
    data = read_evaluation_set(tmp_path / "out", RATE, split="fold2")
    assert list(data.clips.names) == ["2.wav", "3.wav"]


def test_all_files_of_a_folder_are_evaluated_at_the_models_rate(sounds):
    data = read_evaluation_set(sounds, RATE)
    assert (data.split, data.labels, len(data.clips.waveforms)) == ("all", LABELS, 12)
    assert sorted(data.clips.names) == [f"{label}/{i}.wav" for label in LABELS for i in range(4)]
    assert {len(waveform) for waveform in data.clips.waveforms} == {8000}
    for name, target in zip(data.clips.names, data.clips.targets, strict=True):
        assert LABELS[target.argmax()] == name.partition("/")[0]


def test_the_split_besides_train_is_evaluated(sounds, tmp_path):
    for split in ("train", "valid"):
        (tmp_path / split).mkdir()
        for label in LABELS[:2]:
            (tmp_path / split / label).symlink_to(sounds / label)
    data = read_evaluation_set(tmp_path, RATE)
    assert (data.split, len(data.clips.waveforms)) == ("valid", 8)
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "bark").symlink_to(sounds / "bark")
    with pytest.raises(InputError, match="has the splits train, test, valid; say with --split"):
        read_evaluation_set(tmp_path, RATE)
    assert len(read_evaluation_set(tmp_path, RATE, split="valid+test").clips.waveforms) == 12


@pytest.mark.parametrize("kind", ["prepared", "sounds"])
def test_invalid_splits_are_refused(kind, request):
    folder = request.getfixturevalue(kind)
    name = "folder" if kind == "prepared" else ""
    with pytest.raises(InputError, match=r"has no split 'eval'; it has train, test$"):
        read_evaluation_set(folder, RATE, name=name, split="test+eval")
    with pytest.raises(InputError, match=r"'test\+ test' names one twice; name each once$"):
        read_evaluation_set(folder, RATE, name=name, split="test+ test")


def test_each_checkpoint_uses_its_own_feature_extractor(saved, sounds):
    (one, first), (two, second) = saved["one"], saved["two"]
    results = evaluate_checkpoints([two, one], sounds, batch_size=8)
    clips = results.data.clips
    assert list(results.evaluations) == [two, one]
    for path, model in ((one, first), (two, second)):
        found = results.evaluations[path]
        expected = probabilities_by_hand(model, clips)
        np.testing.assert_allclose(found.probabilities, expected, atol=1e-5)
        check_scores(found.metrics, expected, clips.targets)
    each = [evaluation.probabilities for evaluation in results.evaluations.values()]
    np.testing.assert_allclose(results.ensemble.probabilities, np.mean(each, axis=0), atol=1e-7)
    assert results.unnamed == []


def test_one_checkpoint_has_no_ensemble_and_missing_names_are_noted(saved, prepared):
    path, model = saved["unnamed"]
    results = evaluate_checkpoints([path], prepared, name="csv", split="train+test")
    assert (results.ensemble, results.unnamed) == (None, [path])
    expected = probabilities_by_hand(model, read_evaluation_clips_as_float(results.data.clips))
    np.testing.assert_allclose(results.evaluations[path].probabilities, expected, atol=1e-5)


@pytest.mark.parametrize("kept", [["owl"], ["meow", "owl"]])
def test_data_without_some_classes_is_scored_over_all_of_the_models(saved, sounds, tmp_path, kept):
    for label in kept:
        (tmp_path / label).symlink_to(sounds / label)
    path, model = saved["one"]
    results = evaluate_checkpoints([path], tmp_path)
    clips = results.data.clips
    labels = [*kept, *(label for label in LABELS if label not in kept)]
    assert results.data.labels == labels
    expected = probabilities_by_hand(model, clips)[:, [LABELS.index(label) for label in labels]]
    evaluation = results.evaluations[path]
    np.testing.assert_allclose(evaluation.probabilities, expected, atol=1e-5)
    truth = [labels.index(name.partition("/")[0]) for name in clips.names]
    assert evaluation.metrics.accuracy == np.mean(expected.argmax(axis=1) == truth)
    assert evaluation.metrics.classes_without_clips == 3 - len(kept)
    (note,) = results.data.notes
    assert f"has no clips of {3 - len(kept)} of the 3 classes, such as 'bark'" in note


def test_classes_are_added_to_sparse_targets(prepared):
    data = read_evaluation_set(prepared, RATE, name="folder")
    sparse = data._replace(clips=data.clips._replace(targets=csr_array(data.clips.all_targets())))
    found = add_missing_classes(sparse, [*LABELS, "wolf"])
    assert found.labels == [*LABELS, "wolf"]
    dense = add_missing_classes(data, [*LABELS, "wolf"]).clips
    np.testing.assert_array_equal(found.clips.all_targets(), dense.all_targets())
    np.testing.assert_array_equal(found.clips.target(0), dense.target(0))


def read_evaluation_clips_as_float(clips):
    return clips._replace(waveforms=[wave / np.float32(32768) for wave in clips.waveforms])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "no checkpoint is given"),
        (["one", "two", "one"], "a checkpoint is given twice"),
        (["one", "multi"], "one is for single_label_.* and .*multi for multi_label_.*; evaluate"),
        (["one", "slow"], "slow: takes sound at 8000 Hz and the clips are at 16000 Hz; prepare"),
        (["one", "wolf"], "wolf: has no class 'owl', and the data has"),
        (["one", "none"], "none: no such file or folder"),
    ],
)
def test_all_checkpoints_are_checked_before_any_is_evaluated(
    saved, sounds, tmp_path, monkeypatch, names, message
):
    monkeypatch.setattr(module, "predict_checkpoint", lambda *_: pytest.fail("evaluated"))
    paths = [saved[name][0] if name in saved else str(tmp_path / name) for name in names]
    with pytest.raises(InputError, match=message):
        evaluate_checkpoints(paths, sounds)


def test_short_clips_are_evaluated_as_the_checkpoint_was_trained(tmp_path):
    clips, logits = make_clips(), {}
    for masked in (False, True):
        checkpoint = make_checkpoint(0, max_length=64, mask_padding=masked)
        logits[masked] = evaluate(checkpoint, clips, LABELS, RATE).probabilities
        classifier = AudioClassifier(checkpoint)
        for clip, row in zip(clips.waveforms, logits[masked], strict=True):
            found = {x["label"]: x["score"] for x in classifier(clip, None, RATE)}
            np.testing.assert_allclose([found[label] for label in LABELS], row, atol=1e-5)
    assert np.abs(logits[True] - logits[False]).max() > 1e-3
