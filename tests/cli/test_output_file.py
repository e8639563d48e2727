import json
from pathlib import Path

import pytest

from ast_jax.cli.output_file import check_output, open_output
from ast_jax.errors import InputError

OPTIONS = {"--checkpoint": "runs/mine", "--window": 5.0, "--top-k": None}


class Killed(BaseException):
    pass


def write(path, files, options=OPTIONS, killed_in=None):
    """Writes two lines about each file that is not finished; returns these."""
    left = []
    with open_output(str(path), "header\n", options) as output:
        left = [file for file in files if not output.finished[file]]
        for file in left:
            output.write(f"{file} 1\n")
            if file == killed_in:
                raise Killed
            output.write(f"{file} 2\n")
            output.finish(file)
    return left


def text_of(files):
    return "header\n" + "".join(f"{file} 1\n{file} 2\n" for file in files)


FILES = ["a", "é\n", "\udcff", "d"]


def test_unfinished_lines_are_replaced_and_finished_files_are_not_written_again(tmp_path):
    path = tmp_path / "new" / "x.csv"
    for i, file in enumerate(FILES):
        with pytest.raises(Killed):
            write(path, FILES, killed_in=file)
        progress = path.with_name("x.csv.progress").read_bytes().splitlines()
        assert [json.loads(line)[0] for line in progress[1:]] == FILES[:i]
    assert write(path, FILES) == FILES[-1:]
    assert path.read_text() == text_of(FILES).replace("\udcff", r"\udcff")
    assert [file.name for file in path.parent.iterdir()] == ["x.csv"]


def interrupted(tmp_path):
    path = tmp_path / "x.csv"
    with pytest.raises(Killed):
        write(path, "abcd", killed_in="c")
    return path, Path(f"{path}.progress")


def test_what_a_lost_machine_did_not_write_is_written_again(tmp_path):
    path, progress = interrupted(tmp_path)
    path.write_text(text_of("ab")[:-3])
    with progress.open("a") as log:
        log.write('["c", 9')
    assert write(path, "abcd") == ["b", "c", "d"]
    assert path.read_text() == text_of("abcd")


@pytest.mark.parametrize("lost", ["x.csv", "x.csv.progress"])
def test_a_deleted_output_starts_again_and_one_without_progress_is_complete(tmp_path, lost):
    path, _ = interrupted(tmp_path)
    (tmp_path / lost).unlink()
    if lost == "x.csv":
        assert write(path, "abcd") == ["a", "b", "c", "d"]
    with pytest.raises(InputError, match="exists already; choose another output or remove it"):
        write(path, "abcd")
    with pytest.raises(InputError, match="exists already"):
        check_output(str(path), [".csv"], OPTIONS)


def test_finished_files_without_lines_are_kept_and_damaged_ones_are_known(tmp_path):
    path = str(tmp_path / "x.csv")

    def finish_two():
        with open_output(path, "header\n", OPTIONS) as output:
            output.finish("silent")
            output.finish("damaged", is_damaged=True)
            raise Killed

    with pytest.raises(Killed):
        finish_two()
    with open_output(path, "header\n", OPTIONS) as output:
        assert (list(output.finished), output.damaged) == (["silent", "damaged"], ["damaged"])


def test_other_options_are_refused(tmp_path):
    path, progress = interrupted(tmp_path)
    before = path.read_text()
    for changes, text in [
        ({"--window": 2.5}, "was begun with --window '5.0' and not '2.5'; give that to continue"),
        ({"--events": True}, "was begun with --events 'None' and not 'True'"),
    ]:
        for action in (
            lambda options: check_output(str(path), [".csv"], options),
            lambda options: write(path, "abcd", options),
        ):
            with pytest.raises(InputError, match=text):
                action(OPTIONS | changes)
    assert path.read_text() == before
    check_output(str(path), [".csv"], OPTIONS)
    for lines in ("no JSON", '{"options": {}}\n["a", 1e400]'):
        progress.write_text(f"{lines}\n")
        with pytest.raises(InputError, match=r"x.csv.progress: is damaged; remove it and .*x.csv$"):
            check_output(str(path), [".csv"], OPTIONS)


def test_two_commands_cannot_write_one_file(tmp_path):
    pytest.importorskip("fcntl")
    path = tmp_path / "x.csv"
    with open_output(str(path), "header\n", OPTIONS) as output:
        output.write("a\n")
        with pytest.raises(InputError, match="another command is writing it; wait for its end"):
            write(path, "b")
        output.write("b\n")
    assert path.read_text() == "header\na\nb\n"


def test_nothing_is_left_if_nothing_was_found(tmp_path):
    with (
        pytest.raises(InputError, match="a mistake"),
        open_output(str(tmp_path / "x.csv"), "header\n", OPTIONS),
    ):
        raise InputError("a mistake")
    assert list(tmp_path.iterdir()) == []
