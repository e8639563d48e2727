import numpy as np
import pytest

from ast_jax.data.prepare.records import RecordWriter
from ast_jax.data.recorded_waveforms import RecordedWaveforms
from ast_jax.errors import InputError


def record(**features):
    from tensorflow_datasets.proto import tf_example_pb2

    example = tf_example_pb2.Example()
    for name, value in features.items():
        example.features.feature[name].bytes_list.value.append(value)
    return example.SerializeToString()


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (record(audio=bytes(999)), "buffer size must be a multiple of element size"),
        (record(audio=bytes(1002)), "clip 0 has 501 samples instead of 500"),
        (record(id=b"a"), "list index"),
        (record(audio=bytes(1000))[:-1], "Error parsing|Truncated"),
        (b"", "list index"),
    ],
)
def test_a_record_that_is_no_clip_is_named(tmp_path, content, complaint):
    RecordWriter().write(tmp_path / "file", [("", content)])
    waveforms = RecordedWaveforms([(str(tmp_path / "file"), 1)], np.array([500]))
    with pytest.raises(InputError, match=f"^{tmp_path}/file: cannot be read .*({complaint})"):
        waveforms[0]
