"""Lists labeled recordings without decoding them, one module per kind of source.

A function of `SOURCES` takes the source (a folder or a file) and the class CSV or None, and returns
a `Manifest`. Sources that have a class list accept None only. `list_csv` takes options for its
columns, too.
"""

from collections.abc import Callable

from ast_jax.data.sources.audioset import list_audioset
from ast_jax.data.sources.csv_manifest import list_csv
from ast_jax.data.sources.folder import list_folder
from ast_jax.data.sources.folds import list_esc50, list_urbansound8k
from ast_jax.data.sources.fsd50k import list_fsd50k
from ast_jax.data.sources.json_manifest import list_json
from ast_jax.data.sources.manifest import Manifest
from ast_jax.data.sources.speech_commands import list_speech_commands

SOURCES: dict[str, Callable[..., Manifest]] = {
    "audioset": list_audioset,
    "esc50": list_esc50,
    "fsd50k": list_fsd50k,
    "speech_commands": list_speech_commands,
    "urbansound8k": list_urbansound8k,
    "json": list_json,
    "csv": list_csv,
    "folder": list_folder,
}
