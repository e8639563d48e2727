import json

import numpy as np
import pytest

from ast_jax.errors import InputError
from ast_jax.inference import embedding_parts
from ast_jax.inference.embedding_parts import open_parts

SETTINGS = {"checkpoint": "0badc0de", "layer": None}


class StopTestError(Exception):
    pass


def row_of(file, start):
    return np.full(4, 1 + 10 * file + start, np.float32)


def run(folder, rows, files, stop_after=None, unusable=(), settings=SETTINGS):
    """Computes the rows (file, start) that are missing; returns the content of the parts."""
    with open_parts(folder, settings) as parts:
        first = parts.files_done
        parts.unusable += [file for file in unusable if file >= first]
        for count, (file, start) in enumerate(row for row in rows if row[0] >= first):
            if count == stop_after:
                raise StopTestError
            parts.add(file, (start, start + 1), row_of(file, start))
        parts.finish(files)
        files, times = (np.concatenate(column) for column in zip(*parts.index, strict=True))
        found = list(zip(files.tolist(), times[:, 0].tolist(), strict=True))
        return first, found, np.concatenate(list(parts.embeddings())), parts.unusable


@pytest.fixture(params=["by time", "by size"])
def small_parts(request, monkeypatch):
    """Makes parts end after every recording, or after two rows."""
    if request.param == "by time":
        monkeypatch.setattr(embedding_parts, "PART_SECONDS", 0)
    else:
        monkeypatch.setattr(embedding_parts, "PART_BYTES", 2 * 4 * 4)
    return request.param


def test_an_interrupted_run_goes_on_and_loses_no_row(tmp_path, small_parts):
    # Recordings of one, three, no and two windows.
    rows = [(0, 0), (1, 0), (1, 1), (1, 2), (3, 0), (3, 1)]
    skipped = set()
    for stop in range(len(rows)):
        folder = tmp_path / str(stop)
        with pytest.raises(StopTestError):
            run(folder, rows, 4, stop, unusable=[2])
        first, found, embeddings, unusable = run(folder, rows, 4, unusable=[2])
        skipped.add(first)
        assert found == rows
        np.testing.assert_array_equal(embeddings, [row_of(*row) for row in rows])
        assert unusable == [2]
        assert not folder.exists()
    # By size, no part ends between the first recordings.
    assert skipped == ({0, 1, 3} if small_parts == "by time" else {0, 3})


def test_a_run_that_finished_nothing_leaves_nothing(tmp_path):
    with pytest.raises(StopTestError):
        run(tmp_path / "x", [(0, 0), (1, 0)], 2, stop_after=1)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def interrupted(tmp_path, monkeypatch):
    monkeypatch.setattr(embedding_parts, "PART_SECONDS", 0)
    with pytest.raises(StopTestError):
        run(tmp_path / "x", [(0, 0), (1, 0), (2, 0)], 3, stop_after=2)
    assert sorted(path.name for path in (tmp_path / "x").glob("[!.]*")) == [
        "00000.npz",
        "settings.json",
    ]
    return tmp_path / "x"


def test_parts_of_other_settings_are_refused_and_kept(interrupted):
    for settings in (SETTINGS | {"layer": 1}, SETTINGS | {"hop": 1}):
        name = "layer" if settings["layer"] else "hop"
        with pytest.raises(InputError, match=f"x: has parts of .* that differs in its {name}; r"):
            run(interrupted, [], 3, settings=settings)
    assert run(interrupted, [(1, 0), (2, 0)], 3)[0] == 1


def test_damaged_parts_are_refused(interrupted, tmp_path):
    part = interrupted / "00000.npz"
    content = part.read_bytes()
    embedding = row_of(0, 0).tobytes()
    assert embedding in content
    for damaged in (b"", content[:100], content.replace(embedding, embedding[::-1])):
        part.write_bytes(damaged)
        with pytest.raises(InputError, match=r"00000.npz: is damaged .*; remove .*x to start over"):
            run(interrupted, [], 3)
    (interrupted / "settings.json").write_text(json.dumps([]))
    with pytest.raises(InputError, match=r"settings.json: is damaged"):
        run(interrupted, [], 3)
    (interrupted / "settings.json").unlink()
    with pytest.raises(InputError, match="x: is no folder of parts"):
        run(interrupted, [], 3)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file: cannot be written"):
        run(tmp_path / "file", [], 3)


def test_one_process_at_a_time(tmp_path):
    with (
        pytest.raises(InputError, match="another ast-jax embed"),
        open_parts(tmp_path / "x", SETTINGS),
        open_parts(tmp_path / "x", SETTINGS),
    ):
        pass
