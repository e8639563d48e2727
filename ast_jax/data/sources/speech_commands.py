"""Lists Speech Commands V2 (Warden 2018), in the layout of its archive."""

from pathlib import Path

from ast_jax.data.sources.class_csv import refuse_classes
from ast_jax.data.sources.files import visible
from ast_jax.data.sources.manifest import Example, Manifest, check_text, claim, none_found
from ast_jax.data.sources.tables import read_lines
from ast_jax.errors import InputError, quoted
from ast_jax.labels import SPEECH_COMMANDS, class_names

LISTS = {"validation": "validation_list.txt", "test": "testing_list.txt"}
BACKGROUND = "_background_noise_"


def list_speech_commands(source: Path, classes: Path | None = None) -> Manifest:
    """Lists `WORD/*.wav`: splits `train`, `validation`, `test`.

    `validation_list.txt` and `testing_list.txt` have the clips of their splits, `WORD/name.wav`
    per line; `train` has the others, ordered by word and name. Classes are the 35 words in the
    published order, which is not alphabetical. A clip's id is `WORD/name.wav`.
    `_background_noise_` is ignored.

    Source: http://download.tensorflow.org/data/speech_commands_v0.02.tar.gz

    Args:
        source: the folder of the unpacked archive.
        classes: must be None, as the words are the classes.

    Raises:
        InputError: a list is missing or a line cannot be used, a folder is not one of the words,
            or a split is empty.
    """
    refuse_classes(classes, "Speech Commands")
    source = Path(source).absolute()
    words = class_names(SPEECH_COMMANDS.class_list)
    index = {word: i for i, word in enumerate(words)}
    files = _sound_files(source, index)
    splits: dict[str, list[Example]] = {"train": []}
    missing: list[str] = []
    seen: dict[tuple[str, str], str] = {}
    for split, name in LISTS.items():
        splits[split] = []
        for where, clip in _read_list(source / name, index):
            # Across lists: a clip in both would be validated and tested on.
            claim(seen, "clip", clip, where)
            if clip in files:
                splits[split].append(_example(source, clip, index))
            else:
                missing.append(f"{where}: {source / clip} does not exist")
        if not splits[split]:
            raise none_found(source / name, missing)
    splits["train"] = [
        _example(source, clip, index) for clip in files if ("clip", clip) not in seen
    ]
    if not splits["train"]:
        raise InputError(
            f"{source}: the lists have every clip, none is left to train on; unpack the whole "
            f"archive"
        )
    return Manifest(list(words), splits, missing)


def _sound_files(source: Path, index: dict[str, int]) -> dict[str, None]:
    """Returns `WORD/name.wav` of every file, in order, as the keys of a dict."""
    files: dict[str, None] = {}
    for folder in visible(source):
        if folder.name == BACKGROUND or not folder.is_dir():
            continue
        if folder.name not in index:
            raise InputError(
                f"{folder}: {quoted(folder.name)} is not one of the 35 words; move the folder away"
            )
        for file in visible(folder):
            if file.suffix == ".wav" and file.is_file():
                check_text(file.name, "the name of the file", str(folder))
                files[f"{folder.name}/{file.name}"] = None
    return files


def _read_list(file: Path, index: dict[str, int]) -> list[tuple[str, str]]:
    """Returns location and clip of each line."""
    clips = []
    for number, line in enumerate(read_lines(file, "text"), start=1):
        clip, where = line.strip(), f"{file}, line {number}"
        if not clip:
            continue
        check_text(clip, "the clip", where)
        word, _, name = clip.partition("/")
        if word not in index or "/" in name or not name.endswith(".wav") or name[0] == ".":
            raise InputError(
                f"{where}: {quoted(clip)} is not one of the 35 words, a slash and the name of a "
                f".wav file; correct the line"
            )
        clips.append((where, clip))
    return clips


def _example(source: Path, clip: str, index: dict[str, int]) -> Example:
    return Example(clip, str(source / clip), (index[clip.partition("/")[0]],))
