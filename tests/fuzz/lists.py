"""Cases for lists of clips: of every kind, as people and programs write them, and damaged."""

import csv
import io
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from ast_jax.data.sources import SOURCES
from ast_jax.data.sources.manifest import Manifest
from ast_jax.errors import InputError
from tests.fuzz.harness import WrongAnswerError

LABELS = ["dog", "cat", "Rain and wind", "Musik für Oboe", "/m/09x0r", "siren"]
SOUNDS = [f"{name}.wav" for name in ("a", "b c", "sub/d", "é", "e.f", "g")]


class Clip(NamedTuple):
    """A clip of a list."""

    path: str
    labels: tuple[str, ...]
    split: str
    segment: tuple[float, float] | None


def write_and_read(seed: int, folder: Path) -> None:
    """Reads a CSV file in one of the forms that people use; the clips must be those written."""
    rng = random.Random(seed)
    segments = rng.random() < 0.3
    clips = _some_clips(rng, folder, segments)
    text, options = _write_csv(rng, clips, segments)
    file = folder / rng.choice(["clips.csv", "Clips.CSV", "clips.tsv"])
    file.write_bytes(text)
    try:
        manifest = SOURCES["csv"](file, None, **options)
    except InputError as error:
        raise WrongAnswerError(f"{text!r} is refused: {error}") from None
    check_manifest(manifest)
    found = {
        (clip.path, tuple(manifest.labels[i] for i in clip.labels), split, clip.segment)
        for split, of in manifest.splits.items()
        for clip in of
    }
    expected = {
        (str(folder / clip.path), tuple(sorted(clip.labels)), clip.split, clip.segment)
        for clip in clips
    }
    if {(a, tuple(sorted(b)), *c) for a, b, *c in found} != expected:
        raise WrongAnswerError(f"{found} instead of {expected} of {text!r}")


def read_damaged(seed: int, folder: Path) -> None:
    """Reads a list of any kind after damage; what is read must make sense."""
    rng = random.Random(seed)
    kind = rng.choice(list(WRITERS))
    WRITERS[kind](rng, folder)
    lists = sorted(
        path for path in folder.rglob("*") if path.suffix in (".csv", ".json", ".txt", ".tsv")
    )
    for _ in range(rng.randint(1, 3)):
        if lists:
            file = rng.choice(lists)
            file.write_bytes(rng.choice(DAMAGES)(rng, file.read_bytes()))
    check_manifest(SOURCES[kind](folder, None))


def check_manifest(manifest: Manifest) -> None:
    """Raises WrongAnswerError for a manifest that cannot be prepared."""
    if len(set(manifest.labels)) < len(manifest.labels) or not all(manifest.labels):
        raise WrongAnswerError(f"classes {manifest.labels}")
    for text in (*manifest.labels, *manifest.notes, *manifest.missing):
        if len(text.splitlines()) != 1 and text in manifest.labels:
            raise WrongAnswerError(f"{text!r} is not one line")
    for split, clips in manifest.splits.items():
        if len({clip.id for clip in clips}) < len(clips) or not clips:
            raise WrongAnswerError(f"ids of {split} are not unique")
        for clip in clips:
            start, end = clip.segment or (0, 1)
            unique = sorted(set(clip.labels)) == list(clip.labels)
            known = all(0 <= label < len(manifest.labels) for label in clip.labels)
            if not (unique and known and Path(clip.path).is_file() and 0 <= start < end):
                raise WrongAnswerError(f"clip {clip}")


def _some_clips(rng: random.Random, folder: Path, segments: bool) -> list[Clip]:
    sounds = rng.sample(SOUNDS, rng.randint(1, len(SOUNDS)))
    _touch(folder, *sounds)
    clips = []
    for sound in sounds:
        # The first has some, as a list without labels is refused.
        labels = tuple(rng.sample(LABELS, rng.choice([0, 1, 1, 2, 3]) if clips else 1))
        split = rng.choice(["train", "test", "eval"])
        segment = (rng.randint(0, 9) / 4, 2.5 + rng.randint(0, 9)) if segments else None
        clips.append(Clip(sound, labels, split, segment))
    return clips


def _write_csv(
    rng: random.Random, clips: list[Clip], segments: bool
) -> tuple[bytes, dict[str, object]]:
    """Returns a CSV file in a random form, and the options that it needs."""
    delimiter = rng.choice([",", ",", ";", "\t", "|"])
    separator = rng.choice([";", ",", "|", " / "])
    one_hot = rng.random() < 0.3
    names = {
        "path": rng.choice(["path", "filename", "fname", "file", "File Name", "FILE"]),
        "split": rng.choice(["split", "Split", "subset"]),
    }
    options: dict[str, object] = {}
    if separator != ";" and not one_hot:
        options["label_separator"] = separator
    if rng.random() < 0.2:
        names["path"] = "Aufnahme"
        options["columns"] = {"path": "aufnahme"}
    if segments:
        names["start"], names["end"] = rng.choice([("start", "end"), ("Onset", "offset")])
    classes = sorted({label for clip in clips for label in clip.labels}) or ["dog"]
    label_column = rng.choice(["labels", "label", "Category", "class"])
    columns = [*names.values(), *(classes if one_hot else [label_column])]
    rows = []
    for clip in clips:
        path = clip.path.removesuffix(".wav") if rng.random() < 0.3 else clip.path
        row = [path, rng.choice([clip.split, clip.split.title(), clip.split.upper()])]
        row += [str(each) for each in clip.segment or ()]
        if one_hot:
            row += [rng.choice(["1", "1.0", "True"] if c in clip.labels else ["0", "0.0", "false"])
                    for c in classes]  # fmt: skip
        else:
            row.append(separator.join(clip.labels))
        rows.append(row)
    order = rng.sample(range(len(columns)), len(columns))
    table = [[row[i] for i in order] for row in [columns, *rows]]
    if rng.random() < 0.2:  # pandas' index
        table = [[str(i - 1) if i else "", *row] for i, row in enumerate(table)]
    if rng.random() < 0.3:  # as spreadsheet programs save
        table = [[*row, "", ""] for row in table] + [[""] * (len(order) + 3)] * 2
    out = io.StringIO()
    quoting = rng.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
    end = rng.choice(["\n", "\r\n"])
    csv.writer(out, delimiter=delimiter, quoting=quoting, lineterminator=end).writerows(table)
    text = out.getvalue()
    if rng.random() < 0.3:
        text = f"sep={delimiter}{end}{text}"
    return text.encode(rng.choice(["utf-8", "utf-8-sig"])), options


# ---- every kind of source


def _csv(rng: random.Random, folder: Path) -> None:
    segments = rng.random() < 0.5
    clips, options = _some_clips(rng, folder, segments), {"none": "yet"}
    while options:
        text, options = _write_csv(rng, clips, segments)
    (folder / "clips.csv").write_bytes(text)


def _json(rng: random.Random, folder: Path) -> None:
    _touch(folder, *SOUNDS)
    mids = ["/m/0", "/m/1", "/m/2"]
    rows = [f"{i},{mid},Class {i}" for i, mid in enumerate(mids)]
    (folder / "classes.csv").write_text("\n".join(["index,mid,display_name", *rows]))
    for split in ("train", "eval"):
        clips = [{"wav": sound, "labels": ",".join(rng.sample(mids, 2))} for sound in SOUNDS]
        (folder / f"{split}.json").write_text(json.dumps({"data": clips}, indent=1))


def _esc50(rng: random.Random, folder: Path) -> None:
    rows = ["filename,fold,target,category,esc10,src_file,take"]
    for fold in range(1, 6):
        for target in (7, 41):
            rows.append(f"{fold}-1-A-{target}.wav,{fold},{target},class{target},True,1,A")
            _touch(folder, f"audio/{fold}-1-A-{target}.wav")
    _write(folder, "meta/esc50.csv", rows)


def _urbansound8k(rng: random.Random, folder: Path) -> None:
    rows = ["slice_file_name,fsID,start,end,salience,fold,classID,class"]
    for fold in range(1, 11):
        rows.append(f"{fold}-3-0-0.wav,{fold},0.0,0.317551,1,{fold},{fold % 2},class{fold % 2}")
        _touch(folder, f"audio/fold{fold}/{fold}-3-0-0.wav")
    _write(folder, "metadata/UrbanSound8K.csv", rows)


def _fsd50k(rng: random.Random, folder: Path) -> None:
    truth = "FSD50K.ground_truth"
    _write(folder, f"{truth}/vocabulary.csv", ["0,Bark,/m/b", "1,Chirp_and_tweet,/m/c"])
    rows = ['1,"Bark,Chirp_and_tweet","/m/b,/m/c",train', "2,Bark,/m/b,val"]
    _write(folder, f"{truth}/dev.csv", ["fname,labels,mids,split", *rows])
    _write(folder, f"{truth}/eval.csv", ["fname,labels,mids", "3,Bark,/m/b"])
    for name in ("dev_audio/1", "dev_audio/2", "eval_audio/3"):
        _touch(folder, f"FSD50K.{name}.wav")


def _audioset(rng: random.Random, folder: Path) -> None:
    lines = ["# Segments csv created Sun Mar  5 10:54:25 2017", "# num_ytids=2"]
    for video in ("--PJHxphWEs", "-0RWZT-miFs"):
        lines.append(f'{video}, 30.000, 40.000, "/m/09x0r,/t/dd00088"')
        _touch(folder, f"audio/{video}.wav")
    _write(folder, "balanced_train_segments.csv", lines)


def _speech_commands(rng: random.Random, folder: Path) -> None:
    _touch(folder, *(f"{word}/{i}.wav" for word in ("yes", "no") for i in range(4)))
    _write(folder, "validation_list.txt", ["yes/0.wav", "no/0.wav"])
    _write(folder, "testing_list.txt", ["yes/1.wav", "no/1.wav"])


def _folder(rng: random.Random, folder: Path) -> None:
    for _ in range(rng.randint(1, 12)):
        parts = [rng.choice(FOLDER_NAMES) for _ in range(rng.randint(1, 4))]
        with_suffix = rng.choice([".wav", ".wav", ".FLAC", ".txt", "", ".m4a"])
        file = folder.joinpath(*parts, rng.choice(FOLDER_NAMES) + with_suffix)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
        except (FileExistsError, NotADirectoryError, IsADirectoryError):
            continue


FOLDER_NAMES = [
    "train", "Test", "TRAIN", "val", "dog", "Dog", "cat", "__MACOSX", "._a", ".hidden", "a b", "é",
    "a\nb", "@eaDir", "x" * 200,
]  # fmt: skip

WRITERS: dict[str, Callable[[random.Random, Path], None]] = {
    "csv": _csv,
    "json": _json,
    "esc50": _esc50,
    "urbansound8k": _urbansound8k,
    "fsd50k": _fsd50k,
    "audioset": _audioset,
    "speech_commands": _speech_commands,
    "folder": _folder,
}


def _touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def _write(folder: Path, name: str, lines: list[str]) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("\n".join(lines) + "\n")


# ---- damage


def _flip_bytes(rng: random.Random, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        if changed:
            changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def _insert(rng: random.Random, content: bytes) -> bytes:
    at = rng.randint(0, len(content))
    return content[:at] + rng.choice(INSERTED) + content[at:]


def _cut(rng: random.Random, content: bytes) -> bytes:
    start, end = sorted(rng.randint(0, len(content)) for _ in range(2))
    return rng.choice([content[:start], content[start:], content[:start] + content[end:]])


def _change_lines(rng: random.Random, content: bytes) -> bytes:
    lines = content.split(b"\n")
    i, j = rng.randrange(len(lines)), rng.randrange(len(lines))
    match rng.randrange(4):
        case 0:
            lines.insert(i, lines[j])
        case 1:
            lines[i], lines[j] = lines[j], lines[i]
        case 2:
            del lines[i]
        case 3:
            lines *= 50
    return b"\n".join(lines)


def _change_field(rng: random.Random, content: bytes) -> bytes:
    lines = content.split(b"\n")
    i = rng.randrange(len(lines))
    delimiter = rng.choice([b",", b";", b"\t", b'"'])
    fields = lines[i].split(delimiter)
    fields[rng.randrange(len(fields))] = rng.choice(FIELDS)
    lines[i] = delimiter.join(fields)
    return b"\n".join(lines)


def _recode(rng: random.Random, content: bytes) -> bytes:
    text = content.decode("utf-8", "replace")
    encoding = rng.choice(["utf-16", "utf-32-be", "latin-1", "cp437", "utf-8-sig"])
    return text.encode(encoding, "replace")


INSERTED = [
    b"\0", b'"', b"\r", b"\n", b"\xff", b"\xef\xbb\xbf", b",", b";", b"\t", b"sep=;\n", b"sep=\"\n",
    b"'", b"[", b"{", b"NaN", b"x" * 2**20, b"," * 2**16, b'"' * 1001, b"\xe2\x80\xa8",
    b"[" * 10**5, b"9" * 5000,
]  # fmt: skip
FIELDS = [
    b"", b" ", b"nan", b"-1", b"1e308", b"inf", b"0", b"1", b"99999999999999999999",
    b"../../etc/passwd",
    b"/dev/zero", b"/dev/stdin", b"..", b".", b"a\\b.wav", b"x" * 10**6, b"\x01", b"['dog', 'cat']",
    b"dog,cat", b'"dog\ncat"', b"path", b"labels", b"start", b"split", b"fold", b"class", b"Train",
    b"\xc2\x85", b"~", b"a.wav", b"id", b"group", b"[" + b"," * 10**5,
]  # fmt: skip
DAMAGES = [_flip_bytes, _insert, _cut, _change_lines, _change_field, _recode]
