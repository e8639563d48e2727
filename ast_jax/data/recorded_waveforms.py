"""Reads the ArrayRecord files of prepared sets."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ast_jax.errors import InputError, first_line


class RecordedWaveforms(Sequence[np.ndarray]):
    """Reads int16 waveforms from ArrayRecord files by index. Can be pickled.

    ArrayRecord has a hash of every record, which it checks at each read.

    Args:
        files: (path, number of clips) of each file.
        samples: the length of each clip; None to take that of the record.
    """

    def __init__(self, files: list[tuple[str, int]], samples: np.ndarray | None = None):
        # Imported before a progress bar starts: TFDS swaps `builtins.__import__` while it is
        # imported, and an import in the bar's thread then fails and freezes the bar.
        from tensorflow_datasets.proto import tf_example_pb2  # noqa: F401

        self.files = files
        self.samples = samples
        self._starts = np.cumsum([0, *(count for _, count in files)])
        self._readers: dict[int, Any] = {}

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: Any) -> Any:
        """Returns the samples (samples,) of clip `index`, read-only.

        Raises:
            InputError: the file is damaged or missing.
        """
        from array_record.python.array_record_module import ArrayRecordReader
        from google.protobuf.message import DecodeError
        from tensorflow_datasets.proto import tf_example_pb2

        index = range(len(self))[index]
        file = int(np.searchsorted(self._starts, index, side="right")) - 1
        path, _ = self.files[file]
        try:
            # Concurrent threads may each open the file; the last reader is kept.
            if file not in self._readers:
                # By default each reader buffers 16 MB for sequential reads.
                self._readers[file] = ArrayRecordReader(path, options="readahead_buffer_size:0")
            record = self._readers[file].read([index - int(self._starts[file])])[0]
            features = tf_example_pb2.Example.FromString(record).features.feature
            waveform = np.frombuffer(features["audio"].bytes_list.value[0], np.int16)
            if self.samples is not None and len(waveform) != self.samples[index]:
                raise ValueError(
                    f"clip {index} has {len(waveform)} samples instead of {self.samples[index]}"
                )
        except (RuntimeError, IndexError, DecodeError, ValueError) as error:
            raise InputError(
                f"{path}: cannot be read ({first_line(error)}); prepare the set again"
            ) from None
        return waveform

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_readers": {}}
