"""Hashes of clips, and the record of a run's training clips."""

import numpy as np
import pytest

from ast_jax.data.clips import Clips
from ast_jax.data.overlap import (
    TRAINED_FILE,
    hash_clips,
    overlap_note,
    read_trained_clips,
    write_trained_clips,
)
from ast_jax.errors import InputError


def clips(names, seed=0, on_disk=False):
    rng = np.random.default_rng(seed)
    waveforms = [rng.standard_normal(400).astype(np.float32) for _ in names]
    samples = np.full(len(names), 400) if on_disk else None
    return Clips(waveforms, np.ones((len(names), 1), np.float32), names, samples)


@pytest.mark.parametrize("on_disk", [False, True])
@pytest.mark.parametrize("path", ["", "model", "checkpoints/12"])
def test_a_record_is_read_from_a_run_and_its_checkpoints(tmp_path, path, on_disk):
    (tmp_path / path).mkdir(parents=True, exist_ok=True)
    (tmp_path / "run.json").touch()
    trained = clips(["x/a/1.wav", "x/a/2.wav"], on_disk=on_disk)
    write_trained_clips(tmp_path / TRAINED_FILE, hash_clips(trained))
    read = read_trained_clips(tmp_path / path)
    assert hash_clips(trained).found_in(read).tolist() == [True, True]
    assert (read.sounds is None) == on_disk
    assert read_trained_clips(tmp_path / "x" / "y" / "z") is None


def test_sounds_decide_where_both_are_known_and_names_elsewhere():
    trained = clips(["/x/a/1.wav", "/x/a/2.wav"])
    same_names = clips(["a/1.wav", "a/2.wav"], seed=1)
    same_sounds = clips(["b/1.wav", "b/3.wav"])
    hashes = hash_clips(trained)
    assert hash_clips(same_names).found_in(hashes).tolist() == [False, False]
    assert hash_clips(same_sounds).found_in(hashes).tolist() == [True, True]
    stored = same_names._replace(samples=np.array([400, 401]))
    assert hash_clips(stored).found_in(hashes).tolist() == [True, False]
    assert overlap_note(stored, hashes) == (
        "trained on 1 of the 2 clips, such as 'a/1.wav' (compared by name and length); scores on "
        "these say little about new sounds"
    )


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\3\4",
        {"names": np.zeros(3)},
        {"names": np.zeros((2, 2), np.uint64)},
        {},
        np.zeros(2),
    ],
)
def test_a_damaged_record_is_named(tmp_path, content):
    (tmp_path / "run.json").touch()
    with (tmp_path / TRAINED_FILE).open("wb") as file:
        if isinstance(content, bytes):
            file.write(content)
        elif isinstance(content, dict):
            np.savez(file, **content)
        else:
            np.save(file, content)
    with pytest.raises(InputError, match=rf"{TRAINED_FILE} of its run is damaged \(.*\); remove"):
        read_trained_clips(tmp_path)
