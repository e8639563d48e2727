"""Files travel whole between this machine and storage, and nothing leaves the cache's folder."""

import os
from pathlib import Path

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ast_jax import storage
from ast_jax.errors import InputError
from ast_jax.storage import (
    delete,
    fetch,
    is_remote,
    list_files,
    local_files,
    local_folder,
    read_bytes,
    upload,
)

NAMES = ["run.json", "a b/ç d.txt", "a b/2/x", "a+b/%20#1"]


@pytest.fixture
def folder(tmp_path):
    """Returns a folder of small files."""
    for name in NAMES:
        file = tmp_path / "folder" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name)
    return tmp_path / "folder"


@pytest.fixture
def memory(monkeypatch, tmp_path):
    """Returns the URL of an empty folder in this process's memory."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    fsspec.filesystem("memory").store.clear()
    return "memory://bucket/folder"


def pipe(url, content=b"content"):
    fsspec.filesystem("memory").pipe_file(url.removeprefix("memory:/"), content)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("gs://bucket/run", True),
        ("s3://bucket", True),
        (Path("gs://bucket/run"), True),  # 'gs:/bucket/run'
        ("runs/mine", False),
        ("/runs/gs:/x", False),
        ("C:/runs", False),
        ("12:30", False),
        ("", False),
    ],
)
def test_urls_are_told_from_paths(path, expected):
    assert is_remote(path) is expected


def test_files_are_uploaded_listed_downloaded_and_deleted(bucket, folder):
    url = f"{bucket}/some/run"
    assert list_files(url) == {}
    assert sorted(upload(url, folder, [*NAMES, "gone since"])) == sorted(NAMES)
    list(upload(f"{bucket}/some/run2", folder, NAMES[:1]))  # the prefix is not a folder above it
    assert list_files(url).keys() == set(NAMES)
    assert {name: file.size for name, file in list_files(url).items()} == {
        name: len(name.encode()) for name in NAMES
    }
    copy = fetch(url)
    assert {name: (copy / name).read_text() for name in local_files(copy)} == {
        name: name for name in NAMES
    }
    assert read_bytes(url, NAMES[0]) == NAMES[0].encode()
    assert read_bytes(url, "missing") is None
    assert sorted(delete(url, [*NAMES[:2], "gone since"])) == sorted([*NAMES[:2], "gone since"])
    assert list_files(url).keys() == set(NAMES[2:])


def test_only_what_changed_is_downloaded_again(bucket, folder, monkeypatch):
    list(upload(bucket, folder, NAMES))
    copy = fetch(bucket)
    (folder / NAMES[1]).write_text("another")
    list(upload(bucket, folder, NAMES[1:2]))
    list(delete(bucket, NAMES[:1]))
    asked = []
    download = storage.download

    def recorded(url, target, listing, names):
        asked.extend(names)
        yield from download(url, target, listing, names)

    monkeypatch.setattr(storage, "download", recorded)
    assert fetch(f"{bucket}/") == copy
    assert asked == NAMES[1:2]
    assert (copy / NAMES[1]).read_text() == "another"
    assert not (copy / NAMES[0]).exists()
    (copy / NAMES[2]).unlink()
    fetch(bucket)
    assert asked == NAMES[1:3]


def test_a_single_file_is_fetched_by_its_url(bucket, folder):
    list(upload(bucket, folder, NAMES))
    copy = fetch(f"{bucket}/{NAMES[1]}")
    assert copy.read_text() == NAMES[1]
    assert fetch(Path(f"{bucket}/{NAMES[1]}")) == copy


def test_a_missing_bucket_is_named(bucket, folder):
    missing = bucket.replace("bucket", "missing")
    for action in (fetch, lambda url: list(upload(url, folder, NAMES))):
        with pytest.raises(InputError, match=f"^{missing}/x: cannot be .* bucket"):
            action(f"{missing}/x")
    with pytest.raises(InputError, match=f"^{bucket}/x: no such file or folder$"):
        fetch(f"{bucket}/x")


def test_an_interrupted_download_leaves_no_partial_file_and_continues(memory, monkeypatch):
    for name in ("one", "two", "three"):
        pipe(f"{memory}/{name}")
    system = type(fsspec.filesystem("memory"))
    get_file, got = system.get_file, []

    def fail_at_second(self, name, target, **options):
        got.append(Path(name).name)
        if len(got) == 2:
            Path(target).write_bytes(b"con")
            raise ConnectionError("the network is gone")
        get_file(self, name, target, **options)

    monkeypatch.setattr(storage, "THREADS", 1)
    monkeypatch.setattr(system, "get_file", fail_at_second)
    with pytest.raises(InputError, match=r"^memory://bucket/folder: .*the network is gone"):
        fetch(memory)
    copy = local_folder(memory, "downloads")
    left = local_files(copy)
    assert got[0] in left
    assert left.keys() <= {"one", "two", "three"} - {got[1]}
    fetch(memory)
    assert got.count(got[0]) == 1
    assert {name: (copy / name).read_text() for name in ("one", "two", "three")} == dict.fromkeys(
        ("one", "two", "three"), "content"
    )


def test_names_that_leave_the_folder_are_refused(memory):
    pipe(f"{memory}/good")
    pipe(f"{memory}/a/../../../evil")
    with pytest.raises(InputError, match=r"holds 'a/../../../evil', which is no file name"):
        fetch(memory)


@given(st.text(max_size=40))
def test_a_url_is_copied_to_a_folder_of_the_cache_or_refused(rest):
    cache = Path(os.path.normpath(storage.cache_folder() / "runs" / "gs"))
    try:
        target = local_folder(f"gs://{rest}", "runs")
    except InputError:
        return
    assert cache in Path(os.path.normpath(target)).parents


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nosuch://bucket/x", "cannot be opened .*Protocol not known"),
        ("abfs://bucket/x", "cannot be opened; install the library of fsspec"),
        ("gs://", "is not the URL of a file or folder"),
    ],
)
def test_a_url_that_cannot_be_opened_is_refused(url, message):
    with pytest.raises(InputError, match=message):
        fetch(url)


def test_a_missing_library_is_named_with_its_extra(monkeypatch):
    def fail(*arguments, **options):
        raise ImportError("gcsfs")

    monkeypatch.setattr(fsspec.core, "url_to_fs", fail)
    with pytest.raises(InputError, match=r"pip install 'ast-jax\[gcs\]'$"):
        fetch("gs://bucket/x")
