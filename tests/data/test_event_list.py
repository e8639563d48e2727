import numpy as np
import pytest
import soundfile

from ast_jax.data.sources.event_list import read_events
from ast_jax.errors import InputError

DESED = "filename\tonset\toffset\tevent_label\n"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("a.wav", "b.wav", "sub/c_30000.wav"):
        soundfile.write(tmp_path / name, np.zeros(160), 16000)
    return tmp_path


def read(folder, text, name="events.tsv"):
    (folder / name).write_text(text)
    return read_events(folder / name)


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("filename\tonset\toffset\tevent_label", "a.wav"),  # DESED
        ("segment_id\tstart_time_seconds\tend_time_seconds\tlabel", "a"),  # AudioSet
        ("file,start,end,label", "a.wav"),
        ("Filename;Start Time;End Time;Class", "./a"),
    ],
)
def test_the_columns_of_known_lists_are_found(folder, header, name):
    separator = header[next(i for i, c in enumerate(header) if c in "\t,;")]
    row = separator.join([name, ".5", "1.25", "dog"])
    found = read(folder, f"{header}\n{row}\n")
    assert found.events == {str(folder / "a.wav"): [(0.5, 1.25, "dog")]}
    assert found.labels == ["dog"]


def test_recordings_without_events_and_in_subfolders_are_read_and_others_noted(folder):
    found = read(folder, DESED + "a.wav\t\t\t\nc_30000\t0\t1e-2\tcat\nc_30000.wav\t0.5\t1\tcat\n")
    assert list(found.events) == [str(folder / "a.wav"), str(folder / "sub/c_30000.wav")]
    assert [len(events) for events in found.events.values()] == [0, 2]
    assert "1 of 2 recordings have no events" in found.notes[0]
    assert "passed over 1 sound files not in events.tsv" in found.notes[1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("filename\tonset\tevent_label\na.wav\t1\tdog\n", "none of the end; name one 'end'"),
        ("filename\tonset\tstart_time\tend\tlabel\n", "could all be the start"),
        (DESED, "has no events"),
        (DESED + "a.wav\t\t\t\n", "has no events"),
        (DESED + "a.wav\t1\t1\tdog\n", "line 2: the end '1' must come after the start '1'"),
        (DESED + "a.wav\t-1\t1\tdog\n", "must be seconds"),
        (DESED + "a.wav\t0:01\t0:02\tdog\n", "must be seconds"),
        (DESED + "a.wav\tnan\tinf\tdog\n", "must be seconds"),
        (DESED + "a.wav\t0\t1\t\n", "the label is empty"),
        (DESED + "\t0\t1\tdog\n", "filename is empty"),
        (DESED + "x.wav\t0\t1\tdog\n", "x.wav does not exist"),
    ],
)
def test_lists_that_cannot_be_used_are_refused_with_a_sentence(folder, text, message):
    with pytest.raises(InputError, match=message):
        read(folder, text)


def test_a_name_of_several_recordings_is_refused(folder):
    soundfile.write(folder / "sub/b.flac", np.zeros(160), 16000)
    with pytest.raises(InputError, match=r"line 2: 'b' may be .*b\.wav.*b\.flac"):
        read(folder, DESED + "b\t0\t1\tdog\n")
    assert read(folder, DESED + "sub/b\t0\t1\tdog\n").events


def test_a_note_says_which_of_two_columns_is_used(folder):
    found = read(folder, "filename\tonset\toffset\tevent_label\tlabel\na.wav\t0\t1\tdog\tcat\n")
    assert found.labels == ["cat"]
    assert "the label is read from 'label' of 'event_label', 'label'" in found.notes[0]
