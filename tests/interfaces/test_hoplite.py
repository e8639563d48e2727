import csv

import numpy as np
import pytest

from ast_jax.errors import InputError
from tests.interfaces.clips import RATE, noise

pytest.importorskip("perch_hoplite")
from ml_collections import config_dict
from perch_hoplite.agile import embed, source_info
from perch_hoplite.audio_io import load_audio_window
from perch_hoplite.db.datatypes import LabelType
from perch_hoplite.db.sqlite_usearch_impl import SQLiteUSearchDB, get_default_usearch_config

from ast_jax.interfaces.hoplite import ASTEmbeddingModel


@pytest.fixture(scope="module")
def model(folder):
    return ASTEmbeddingModel.load(folder)


def test_windows_have_the_embeddings_and_logits_of_their_sound(model):
    """Half a second a window, the last of which is a quarter of a second."""
    sound = noise(2 * RATE + RATE // 4)
    outputs = model.embed(sound)
    assert (outputs.embeddings.shape, outputs.logits["label"].shape) == ((5, 1, 16), (5, 3))
    for i in range(5):
        window = sound[i * RATE // 2 :][: RATE // 2]
        expected = model.classifier.embed(window, sampling_rate=RATE)
        np.testing.assert_allclose(outputs.embeddings[i, 0], expected, rtol=1e-5, atol=1e-6)
        scores = model.classifier(window, None, RATE, function_to_apply="none")
        expected = [{s["label"]: s["score"] for s in scores}[x] for x in ("rain", "wind", "owl")]
        np.testing.assert_allclose(outputs.logits["label"][i], expected, rtol=1e-4, atol=1e-6)


def test_a_batch_has_the_results_of_its_recordings(folder):
    config = config_dict.ConfigDict(
        {"model_path": str(folder), "window_size_s": 0.4, "hop_size_s": 0.1, "batch_size": 3}
    )
    model = ASTEmbeddingModel.from_config(config)
    sounds = noise(2, RATE)
    batch = model.batch_embed(sounds)
    assert batch.batched
    assert batch.embeddings.shape == (2, 7, 1, model.embedding_dim)
    for i, sound in enumerate(sounds):
        one = model.embed(sound)
        assert not one.batched
        np.testing.assert_allclose(batch.embeddings[i], one.embeddings, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(
            batch.logits["label"][i], one.logits["label"], rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window_size_s": 0.6}, "window is 0.6 s and the model's input has 0.515 s"),
        ({"hop_size_s": 0}, "hop is 0: give a positive number of seconds"),
        ({"window_size_s": 0.2, "hop_size_s": 0.3}, "hop is 0.3 s and window 0.2 s"),
    ],
)
def test_windows_that_cannot_be_used_are_refused(folder, changes, message):
    with pytest.raises(InputError, match=message):
        ASTEmbeddingModel.load(folder, **changes)


def test_stereo_is_refused(model):
    with pytest.raises(InputError, match=r"shape \(1, 2, 8000\); give one channel"):
        model.embed(noise(2, 8000))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the libraries that read files
def test_recordings_are_embedded_into_a_database_searched_and_labelled(folder, esc10, tmp_path):
    with (esc10 / "meta" / "esc50.csv").open() as file:
        category = {row["filename"][:-4]: row["category"] for row in csv.DictReader(file)}
    for path in sorted((esc10 / "audio").glob("1-*.ogg"))[:12]:
        deployment = tmp_path / "recordings" / category[path.stem]
        deployment.mkdir(parents=True, exist_ok=True)
        (deployment / path.name).symlink_to(path)
    model = ASTEmbeddingModel.load(folder)
    database = SQLiteUSearchDB.create(
        db_path=str(tmp_path / "database"),
        usearch_cfg=get_default_usearch_config(embedding_dim=model.embedding_dim),
    )
    recordings = source_info.AudioSourceConfig("esc10", str(tmp_path / "recordings"), "*/*.ogg")
    config = config_dict.ConfigDict({"model_path": str(folder)})
    embed.EmbedWorker(
        audio_sources=source_info.AudioSources((recordings,)),
        model_config=embed.ModelConfig("ast_jax", model.embedding_dim, config),
        db=database,
        embedding_model=model,
    ).process_all()
    windows = database.get_all_windows()
    assert len(windows) == database.count_embeddings() >= 12 * 9

    window = windows[-9]
    path = tmp_path / "recordings" / database.get_recording(window.recording_id).filename
    query = model.embed(load_audio_window(str(path), window.offsets[0], RATE, 0.5)).embeddings[0, 0]
    # The database stores float16, and the file was resampled as a whole.
    np.testing.assert_allclose(database.get_embedding(window.id), query, atol=0.01)
    stored = database.get_embeddings_batch([window.id for window in windows])
    best = np.sort(stored.astype(np.float32) @ query)[::-1][:3]
    for approximate in (True, False):
        found = list(database.search(query, 3, approximate))
        np.testing.assert_allclose([result.sort_score for result in found], best, atol=0.02)

    database.insert_annotation(
        window.recording_id, window.offsets, "dog", LabelType.POSITIVE, provenance="test"
    )
    assert [w.id for w in database.get_labeled_windows("dog")] == [window.id]
