"""Lists labeled recordings without decoding them, one module per kind of source.

A function of `SOURCES` takes the source (a folder or a file) and the class CSV or None, and returns
a `Manifest`. Sources that have a class list accept None only.
"""

from collections.abc import Callable
from pathlib import Path

from ast_jax.data.sources.audioset import list_audioset
from ast_jax.data.sources.esc50 import list_esc50
from ast_jax.data.sources.folder import list_folder
from ast_jax.data.sources.json_csv import list_csv, list_json
from ast_jax.data.sources.manifest import Manifest
from ast_jax.data.sources.speech_commands import list_speech_commands

SOURCES: dict[str, Callable[[Path, Path | None], Manifest]] = {
    "audioset": list_audioset,
    "esc50": list_esc50,
    "speech_commands": list_speech_commands,
    "json": list_json,
    "csv": list_csv,
    "folder": list_folder,
}
