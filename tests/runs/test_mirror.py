"""A remote run's folder is published whole, and is the same on another machine."""

import shutil
import time

import fsspec
import pytest

from ast_jax.checkpoint.load import LAST_FILE, complete_names
from ast_jax.errors import InputError
from ast_jax.runs import mirror
from ast_jax.runs.mirror import pull, push, push_last, run_folder, uploading
from ast_jax.storage import list_files, local_files

URL = "memory://bucket/run"


@pytest.fixture(autouse=True)
def storage(monkeypatch, tmp_path):
    """Empties the storage in memory and moves this test to a machine of its own."""
    fsspec.filesystem("memory").store.clear()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "one"))


@pytest.fixture
def requests(monkeypatch):
    """Returns the names that are written or deleted, and lets one fail."""
    system = type(fsspec.filesystem("memory"))
    made, failing = [], set()

    def recorded(action, position):
        def call(self, *arguments, **options):
            name = arguments[position].split("/run/")[1]
            if name in failing:
                raise PermissionError("Access denied")
            made.append((action.__name__, name))
            return action(self, *arguments, **options)

        return call

    monkeypatch.setattr(system, "put_file", recorded(system.put_file, 1))
    monkeypatch.setattr(system, "rm_file", recorded(system.rm_file, 0))
    made_and_failing = type("Requests", (), {"made": made, "failing": failing})
    return made_and_failing


def write(folder, *names, content="content"):
    for name in names:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)


def checkpoint(step):
    return (
        f"checkpoints/{step}/params/d/x",
        f"checkpoints/{step}/config/config.json",
        f"checkpoints/{step}/{LAST_FILE}",
    )


def new_run(*steps):
    folder = run_folder(URL)
    write(folder, "run.json", *(name for step in steps for name in checkpoint(step)))
    write(folder, "sessions.json", content='["one"]')
    return folder


def test_a_checkpoint_is_complete_when_its_last_file_is_uploaded(requests):
    push(URL, new_run(4))
    names = [name for _, name in requests.made]
    assert set(names) == set(list_files(URL)) == set(local_files(run_folder(URL)))
    last = names.index(f"checkpoints/4/{LAST_FILE}")
    assert all(names.index(name) <= last for name in checkpoint(4))
    assert names[0] == "run.json"  # without it the folder is not known as a run's
    assert names[-1] == "sessions.json"


def test_the_last_file_is_deleted_first(requests):
    folder = new_run(4, 8)
    push(URL, folder)
    shutil.rmtree(folder / "checkpoints" / "4")
    requests.made.clear()
    push(URL, folder)
    assert requests.made[0] == ("rm_file", f"checkpoints/4/{LAST_FILE}")
    assert {name for _, name in requests.made} == set(checkpoint(4))
    requests.made.clear()
    push(URL, folder)
    assert requests.made == []


def test_temporary_files_are_not_uploaded():
    folder = new_run()
    write(
        folder, ".run.json.12.tmp", "checkpoints/4.orbax-checkpoint-tmp/params/x", ".model.3.tmp/x"
    )
    push(URL, folder)
    assert list_files(URL).keys() == {"run.json", "sessions.json"}


def test_another_machine_gets_the_complete_checkpoints_and_removes_the_others(
    requests, monkeypatch, tmp_path
):
    push(URL, new_run(4))
    write(run_folder(URL), *checkpoint(8))
    requests.failing.add(f"checkpoints/8/{LAST_FILE}")
    with pytest.raises(InputError, match=r"memory://bucket/run: cannot be written .Access denied"):
        push(URL, run_folder(URL))
    requests.failing.clear()

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another"))
    folder = run_folder(URL)
    pull(URL, folder)
    assert local_files(folder).keys() == {"run.json", "sessions.json", *checkpoint(4)}
    assert set(checkpoint(8)[:2]) <= list_files(URL).keys()
    push(URL, folder)
    assert list_files(URL).keys() == {"run.json", "sessions.json", *checkpoint(4)}


def test_the_machine_of_the_last_session_keeps_what_it_has(monkeypatch, tmp_path):
    push(URL, new_run(4))
    write(run_folder(URL), *checkpoint(8))  # killed before its upload
    pull(URL, run_folder(URL))
    push(URL, run_folder(URL))
    assert set(checkpoint(8)) <= list_files(URL).keys()

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another"))
    pull(URL, run_folder(URL))
    write(run_folder(URL), "sessions.json", content='["one", "two"]')
    write(run_folder(URL), *checkpoint(12))
    push(URL, run_folder(URL))

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "one"))
    write(run_folder(URL), *checkpoint(9))
    pull(URL, run_folder(URL))
    assert set(local_files(run_folder(URL))) == set(list_files(URL))
    assert not (run_folder(URL) / "checkpoints" / "9").exists()


def test_a_run_that_was_deleted_without_a_checkpoint_here_starts_again():
    push(URL, new_run())
    fsspec.filesystem("memory").store.clear()
    pull(URL, run_folder(URL))
    assert local_files(run_folder(URL)) == {}


def test_the_only_copy_of_a_checkpoint_is_not_removed():
    push(URL, new_run(4))
    fsspec.filesystem("memory").store.clear()
    with pytest.raises(InputError, match=f"has no run any more, .* copy in {run_folder(URL)}"):
        pull(URL, run_folder(URL))
    assert set(checkpoint(4)) <= local_files(run_folder(URL)).keys()


def test_a_session_whose_first_upload_failed_keeps_its_checkpoints():
    push(URL, new_run(4))
    write(run_folder(URL), *checkpoint(8))
    write(run_folder(URL), "sessions.json", content='["one", "two"]')
    pull(URL, run_folder(URL))
    assert set(checkpoint(8)) <= local_files(run_folder(URL)).keys()


def test_a_copy_that_lost_its_checkpoints_is_downloaded_again():
    push(URL, new_run(4, 8))
    everything = set(list_files(URL))
    shutil.rmtree(run_folder(URL) / "checkpoints")
    pull(URL, run_folder(URL))
    assert set(local_files(run_folder(URL))) == everything
    push(URL, run_folder(URL))
    assert set(list_files(URL)) == everything


def test_a_run_does_not_write_where_another_has_started():
    folder = new_run(4)
    push(URL, folder)
    owner = (folder / "sessions.json").read_bytes()
    write(folder, "history.json")
    push(URL, folder, owner)
    fsspec.filesystem("memory").pipe_file("/bucket/run/sessions.json", b'["of another"]')
    shutil.rmtree(folder)
    with pytest.raises(InputError, match=r"sessions.json is not that of this run: another run"):
        push(URL, folder, owner)
    assert "run.json" in list_files(URL)


def test_hidden_files_of_the_user_stay():
    push(URL, new_run(4))
    fsspec.filesystem("memory").pipe_file("/bucket/run/.git/config", b"")
    pull(URL, run_folder(URL))
    shutil.rmtree(run_folder(URL))
    pull(URL, run_folder(URL))
    write(run_folder(URL), "history.json")
    push(URL, run_folder(URL))
    assert ".git/config" in list_files(URL)


@pytest.mark.parametrize("state", ["[]", "5", "{", '{"run.json": 3}'])
def test_a_damaged_state_uploads_everything_again(requests, state):
    folder = new_run(4)
    push(URL, folder)
    (folder.parent / "uploaded.json").write_text(state)
    requests.made.clear()
    push(URL, folder)
    assert {name for _, name in requests.made} == set(local_files(folder))


def test_a_folder_of_something_else_is_refused_before_it_is_downloaded():
    fsspec.filesystem("memory").pipe_file("/bucket/run/music/1.wav", b"sound")
    with pytest.raises(
        InputError, match=r"^memory://bucket/run: exists and is not a run of ast_jax"
    ):
        pull(URL, run_folder(URL))
    assert not run_folder(URL).exists()


def test_an_interrupted_download_of_a_run_starts_again_and_deletes_nothing(
    requests, monkeypatch, tmp_path
):
    push(URL, new_run(4))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another"))
    pull(URL, run_folder(URL))
    write(run_folder(URL), "sessions.json", content='["one", "two"]')
    write(run_folder(URL), *checkpoint(8))
    push(URL, run_folder(URL))
    everything = set(list_files(URL))

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "one"))
    system = type(fsspec.filesystem("memory"))
    get_file = system.get_file

    def fail_late(self, name, target, **options):
        if "checkpoints" in name:
            time.sleep(0.2)
            raise ConnectionError("the network is gone")
        get_file(self, name, target, **options)

    with monkeypatch.context() as patch:
        patch.setattr(system, "get_file", fail_late)
        with pytest.raises(InputError, match="the network is gone"):
            pull(URL, run_folder(URL))
    pull(URL, run_folder(URL))
    assert set(local_files(run_folder(URL))) == everything
    push(URL, run_folder(URL))
    assert set(list_files(URL)) == everything


def test_a_result_that_is_not_complete_is_not_downloaded():
    names = ["run.json", "model/params/x", "checkpoints/8/params/x", f"checkpoints/4/{LAST_FILE}"]
    assert complete_names(names) == ["run.json", f"checkpoints/4/{LAST_FILE}"]
    assert complete_names([*names, f"model/{LAST_FILE}"])[1] == "model/params/x"


def wait_for(condition):
    """Waits until a condition holds, 20 s at most."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_failing_upload_is_reported_once_and_tried_again(requests, monkeypatch, capsys):
    monkeypatch.setattr(mirror, "UPLOAD_INTERVAL", 0.01)
    folder = new_run()
    push(URL, folder)
    requests.failing.add("history.json")
    with uploading(URL, folder):
        write(folder, "history.json", "results.json")
        time.sleep(0.5)
        requests.failing.clear()
        wait_for(lambda: {"history.json", "results.json"} <= list_files(URL).keys())
    assert capsys.readouterr().err.count("the run goes on and tries again") == 1


def test_a_last_upload_that_fails_says_where_everything_is(requests):
    folder = new_run()
    push(URL, folder)
    requests.failing.add("results.json")
    write(folder, "results.json")
    with pytest.raises(InputError, match=f"Access denied.*everything is in {folder}"):
        push_last(URL, folder)
