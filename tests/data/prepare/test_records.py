import numpy as np
import pytest
import tensorflow_datasets as tfds
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ast_jax.data.prepare.records import RecordWriter, make_features, make_serializer
from ast_jax.data.recorded_waveforms import RecordedWaveforms

LABELS = ["Speech", "Male speech, man speaking", "a/b", "é"]
FEATURES = make_features(LABELS)
SERIALIZER = make_serializer(FEATURES)


def encode(id, samples, labels):
    example = {"id": id, "audio": samples, "labels": labels}
    return SERIALIZER.serialize_example(FEATURES.encode_example(example))


@given(
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=20),
    arrays(np.int16, st.integers(0, 40)),
    st.sets(st.integers(0, 3)).map(sorted),
)
def test_a_record_round_trips_exactly(id, samples, labels):
    decoded = FEATURES.deserialize_example_np(encode(id, samples, tuple(labels)))
    assert decoded["id"].decode() == id
    assert decoded["audio"].dtype == np.int16
    np.testing.assert_array_equal(decoded["audio"], samples)
    assert list(decoded["labels"]) == labels


@settings(max_examples=10)
@given(st.lists(arrays(np.int16, st.integers(1, 40)), min_size=1, max_size=20))
def test_any_record_of_a_file_can_be_read_alone(tmp_path_factory, clips):
    path = tmp_path_factory.mktemp("records") / "x.array_record"
    records = [(str(i), encode(str(i), clip, ())) for i, clip in enumerate(clips)]
    RecordWriter().write(path, iter(records))
    waveforms = RecordedWaveforms([(str(path), len(clips))])
    for index in reversed(range(len(clips))):
        np.testing.assert_array_equal(waveforms[index], clips[index])


def test_a_file_has_one_record_per_group_and_no_compression(tmp_path):
    samples = np.zeros(50_000, np.int16)
    RecordWriter().write(tmp_path / "x", [("a", encode("a", samples, ()))] * 3)
    assert (tmp_path / "x").stat().st_size > 3 * samples.nbytes
    from array_record.python.array_record_module import ArrayRecordReader

    reader = ArrayRecordReader(str(tmp_path / "x"))
    assert reader.num_records() == 3
    assert "group_size:1," in reader.writer_options_string()


def test_a_failing_source_leaves_the_file_closed(tmp_path):
    def records():
        yield "a", encode("a", np.zeros(5, np.int16), ())
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        RecordWriter().write(tmp_path / "x", records())


def test_a_class_of_the_list_is_read_by_name():
    assert isinstance(FEATURES["labels"].feature, tfds.features.ClassLabel)
    assert FEATURES["labels"].feature.names == LABELS
