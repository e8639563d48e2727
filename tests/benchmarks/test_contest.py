"""What `benchmarks/contest.py` does where memory or time run out; its times are not looked at."""

from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parent.parent.parent / "benchmarks" / "contest.py"
LABELS = {"ours": "ours", "SDPA": "theirs", "eager": "the original's"}


@pytest.fixture(scope="module")
def contest(as_module):
    return as_module(SCRIPT)


def maker(contest, result, runs=(), error=None):
    """What makes a contender that gives `result`, and writes into `runs` how often it worked."""

    def run(times):
        runs.append(times)
        return result

    def make():
        if error:
            raise error
        return contest.Contender(run, f"gives {result}", lambda: 7), result

    return make


def differ(label, result, expected):
    assert result == expected, f"{label}: {expected} was expected"


def test_all_take_turns_of_each_number_in_each_round(contest):
    first, second = [], []
    makers = {"ours": maker(contest, 1.0, first), "SDPA": maker(contest, 1.0, second)}
    found = contest.measure(makers, LABELS, differ, [1, 10], 3)
    assert first == second == [1, 1, 1, 10, 10, 10]
    assert found["SDPA"].seconds.shape == (2, 3)
    assert (found["SDPA"].seconds > 0).all()
    assert found["SDPA"][:2] == ("gives 1.0", 1.0)
    assert found["SDPA"].peak == 7


@pytest.mark.parametrize("expected", [None, 1.0])
def test_another_result_ends_all_before_anything_is_timed(contest, expected):
    runs = []
    makers = {"ours": maker(contest, 1.0, runs), "SDPA": maker(contest, 2.0, runs)}
    with pytest.raises(AssertionError, match=r"gives 2\.0: 1\.0 was expected"):
        contest.measure(makers, LABELS, differ, [1], 3, expected)
    assert not runs


def test_a_result_that_is_not_finite_ends_all(contest):
    makers = {"ours": maker(contest, np.inf, [])}
    with pytest.raises(AssertionError, match="the result became inf"):
        contest.measure(makers, LABELS, differ, [1], 1)


def test_who_runs_out_of_memory_is_left_out_and_any_other_fault_is_not(contest):
    full = RuntimeError("RESOURCE_EXHAUSTED: 3 GiB")
    makers = {"ours": maker(contest, 1.0, []), "SDPA": maker(contest, 1.0, error=full)}
    found = contest.measure(makers, LABELS, differ, [1], 2)
    assert found["ours"].seconds.shape == (1, 2)
    assert found["SDPA"] == contest.Measured("theirs", remark="out of memory")
    makers["SDPA"] = maker(contest, 1.0, error=RuntimeError("a wrong shape"))
    with pytest.raises(RuntimeError, match="a wrong shape"):
        contest.measure(makers, LABELS, differ, [1], 2)


def test_out_of_memory_while_timed_tells_no_time(contest):
    def run(times):
        raise MemoryError

    makers = {"ours": lambda: (contest.Contender(run, "ours", lambda: None), 1.0)}
    found = contest.measure(makers, LABELS, differ, [1], 1)
    assert found["ours"] == contest.Measured("ours", 1.0, remark="out of memory")


def test_who_ran_out_of_memory_is_tried_alone_with_the_others_result(contest, monkeypatch):
    calls = []

    def alone(function, names, batch_size, expected):
        assert function is measure
        assert batch_size == 4
        calls.append((names, expected))
        if names == ("SDPA",):
            raise BrokenProcessPool
        fine = {name: contest.Measured(name, np.ones(3), np.ones(2)) for name in names}
        if len(names) == 1:
            return fine
        full = {name: contest.Measured(name, remark="out of memory") for name in names[1:]}
        return fine | full

    def measure():
        """Never called: `alone` is the test's."""

    monkeypatch.setattr(contest, "alone", alone)
    found = contest.measure_batch(measure, LABELS, 4)
    assert [names for names, _ in calls] == [tuple(LABELS), ("SDPA",), ("eager",)]
    assert calls[0][1] is None
    assert all((expected == np.ones(3)).all() for _, expected in calls[1:])
    assert [one.remark for one in found.values()] == ["", "its process was killed", "apart"]
    assert found["SDPA"].label == "theirs"


def test_a_result_is_added_with_its_command_but_without_the_files_name(contest, tmp_path):
    path = tmp_path / "R.md"
    path.write_text("# Measured\n")
    for words in (["--append", "secret/R.md", "--tiny"], ["--append=secret/R.md", "--tiny"]):
        contest.append(path, "A title", ["python", "x.py", *words], "A machine", ["| a |"])
    text = path.read_text()
    assert text.count("\n## A title\n\n    python x.py --tiny\n\nA machine; 20") == 2
    assert text.endswith("| a |\n")
