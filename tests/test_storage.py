"""Files are copied whole between this machine and buckets, and none leaves the cache."""

import shutil
import threading
from pathlib import Path

import fsspec
import pytest

from ast_jax import storage
from ast_jax.errors import InputError
from ast_jax.storage import delete, fetch, list_files, local_files, read_bytes, upload
from ast_jax.urls import local_copy

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


def test_files_are_uploaded_listed_downloaded_and_deleted(bucket, folder):
    url = f"{bucket}/some/run"
    assert list_files(url) == {}
    done = []
    upload(url, folder, [*NAMES, "removed"], done.append)
    assert sorted(done) == sorted(NAMES)
    upload(f"{bucket}/some/run2", folder, NAMES[:1])  # the prefix is not a folder above it
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
    done.clear()
    delete(url, [*NAMES[:2], "removed"], done.append)
    assert sorted(done) == sorted([*NAMES[:2], "removed"])
    assert list_files(url).keys() == set(NAMES[2:])


def test_only_what_changed_is_downloaded_again(bucket, folder, monkeypatch):
    upload(bucket, folder, NAMES)
    copy = fetch(bucket)
    (folder / NAMES[1]).write_text("another")
    upload(bucket, folder, NAMES[1:2])
    delete(bucket, NAMES[:1])
    asked = []
    download = storage.download

    def recorded(url, target, files, on_done):
        asked.extend(files)
        download(url, target, files, on_done)

    monkeypatch.setattr(storage, "download", recorded)
    assert fetch(f"{bucket}/") == copy
    assert asked == NAMES[1:2]
    assert (copy / NAMES[1]).read_text() == "another"
    assert not (copy / NAMES[0]).exists()
    (copy / NAMES[2]).unlink()
    fetch(bucket)
    assert asked == NAMES[1:3]


def test_a_single_file_is_fetched_by_its_url(bucket, folder):
    upload(bucket, folder, NAMES)
    copy = fetch(f"{bucket}/{NAMES[1]}")
    assert copy.read_text() == NAMES[1]
    assert fetch(Path(f"{bucket}/{NAMES[1]}")) == copy


def test_a_missing_bucket_is_named(bucket, folder):
    missing = bucket.replace("bucket", "missing")
    for action in (fetch, lambda url: upload(url, folder, NAMES)):
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

    monkeypatch.setattr(storage, "NUM_THREADS", 1)
    monkeypatch.setattr(system, "get_file", fail_at_second)
    with pytest.raises(InputError, match=r"^memory://bucket/folder: .*the network is gone"):
        fetch(memory)
    copy = local_copy(memory, "downloads")
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


def test_copies_of_a_folder_and_of_one_within_it_are_independent(memory):
    pipe(f"{memory}/one")
    pipe(f"{memory}/inner/two")
    inner = fetch(f"{memory}/inner")
    outer = fetch(memory)
    assert local_files(inner).keys() == {"two"}
    assert local_files(outer).keys() == {"one", "inner/two"}


def test_folders_that_are_gone_are_removed_from_the_copy(memory):
    pipe(f"{memory}/a/b/one")
    pipe(f"{memory}/two")
    copy = fetch(memory)
    fsspec.filesystem("memory").rm("/bucket/folder/a/b/one")
    fetch(memory)
    assert [path.name for path in copy.iterdir()] == ["two"]
    fsspec.filesystem("memory").rm("/bucket/folder", recursive=True)
    pipe(memory, b"now a file")
    assert fetch(memory).read_bytes() == b"now a file"


@pytest.mark.parametrize("bucket", ["s3"], indirect=True)
def test_marks_of_empty_folders_are_passed_over(bucket, folder):
    name = bucket.removeprefix("s3://")
    for key in ("set/", "set/empty/", "only/"):
        fsspec.filesystem("s3").call_s3("put_object", Bucket=name, Key=key, Body=b"")
    upload(f"{bucket}/set", folder, NAMES)
    assert list_files(f"{bucket}/set").keys() == set(NAMES)
    assert list_files(f"{bucket}/only") == {}


def test_folders_may_disappear_during_a_listing(tmp_path):
    ended = threading.Event()

    def rename():
        number = 0
        while not ended.is_set():
            folder = tmp_path / f"{number}.tmp" / "params" / "d"
            folder.mkdir(parents=True)
            (folder / "x").touch()
            folder.parents[1].rename(tmp_path / str(number))
            shutil.rmtree(tmp_path / str(number))
            number += 1

    thread = threading.Thread(target=rename)
    thread.start()
    try:
        for _ in range(500):
            local_files(tmp_path)
    finally:
        ended.set()
        thread.join()


def test_a_cache_that_cannot_be_written_is_named(memory, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(
        InputError, match=r"file/ast_jax/.*: cannot be created .*; set XDG_CACHE_HOME"
    ):
        fetch(memory)


def test_a_bug_is_not_reported_as_a_failure_of_the_network(memory, monkeypatch):
    system = type(fsspec.filesystem("memory"))
    monkeypatch.setattr(system, "find", lambda *arguments, **options: None.missing)
    with pytest.raises(AttributeError):
        fetch(memory)


def test_a_missing_library_is_named_with_its_extra(monkeypatch):
    def fail(*arguments, **options):
        raise ImportError("gcsfs")

    monkeypatch.setattr(fsspec.core, "url_to_fs", fail)
    with pytest.raises(InputError, match=r"pip install 'ast-jax\[gcs\]'$"):
        fetch("gs://bucket/x")
