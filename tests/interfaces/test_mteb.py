import io
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from ast_jax.errors import InputError
from tests.interfaces.clips import RATE, noise

pytest.importorskip("mteb")
import mteb
from mteb.models.models_protocols import EncoderProtocol

from ast_jax.interfaces.mteb import ASTEncoder


@pytest.fixture(scope="module")
def encoder(folder):
    return ASTEncoder(folder)


def encode(encoder, batches, **options):
    task = SimpleNamespace(name="Task")
    return encoder.encode(batches, task_metadata=task, hf_split="", hf_subset="", **options)


@pytest.mark.filterwarnings("ignore")  # of scikit-learn's metrics, on tasks of few samples
def test_the_mock_tasks_of_mteb_pass(encoder):
    pytest.importorskip("torchcodec")  # with which `datasets` reads sounds
    results = mteb.mock_run(encoder)
    outcomes = {name: outcome for name, outcome in results.items() if outcome is not None}
    failures = {k: v for k, v in outcomes.items() if not isinstance(v, mteb.TaskResult)}
    assert not failures
    assert len(outcomes) >= 7


def test_sounds_of_any_form_are_embedded_in_batches(encoder):
    """The second is resampled, the third has two windows."""
    file = io.BytesIO()
    soundfile.write(file, noise(44100), 44100, format="WAV")
    sounds = [
        {"array": noise(RATE // 2), "sampling_rate": RATE},
        {"bytes": file.getvalue(), "path": None},
        {"array": noise(RATE), "sampling_rate": RATE},
    ]
    found = encode(encoder, [{"audio": sounds[:2]}, {"audio": sounds[2:]}], batch_size=2)
    assert found.shape == (3, encoder.mteb_model_meta.embed_dim)
    expected = encoder.classifier.embed(sounds[0])
    np.testing.assert_allclose(found[0], expected, rtol=1e-5, atol=1e-6)
    for i in (1, 2):
        (expected,) = encode(encoder, [{"audio": [sounds[i]]}])
        np.testing.assert_allclose(found[i], expected, rtol=1e-5, atol=1e-6)


def test_tasks_without_audio_are_refused(encoder):
    with pytest.raises(InputError, match=r"Task: the inputs have text, .* embeds audio only"):
        encode(encoder, [{"text": ["a dog"]}])


def test_the_description_tells_checkpoints_apart(encoder, save_small):
    assert isinstance(encoder, EncoderProtocol)
    meta = encoder.mteb_model_meta
    assert (meta.name, meta.n_parameters) == ("ast_jax/small", 3083)
    assert ASTEncoder(save_small()).mteb_model_meta.revision == meta.revision
    assert ASTEncoder(save_small(mean=-5.0)).mteb_model_meta.revision != meta.revision
    assert ASTEncoder(save_small(), name="we/ours").mteb_model_meta.name == "we/ours"
