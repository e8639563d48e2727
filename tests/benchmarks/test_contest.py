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


def test_all_take_turns_in_rounds_of_each_number_of_repeats(contest):
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


def in_process(contest, fates, calls):
    """`alone` for a `function` that gives ones, unless `fates` says what becomes of these names."""

    def alone(function, names, batch_size, expected):
        calls.append((names, expected))
        fate = fates.get(names)
        if isinstance(fate, Exception):
            raise fate
        found = {name: contest.Measured(name, np.ones(3), np.ones((1, 2))) for name in names}
        full = {name: contest.Measured(name, remark="out of memory") for name in fate or ()}
        return found | full

    return alone


def test_who_ran_out_of_memory_is_tried_alone_with_the_others_result(contest, monkeypatch):
    calls = []
    fates = {tuple(LABELS): ("SDPA", "eager"), ("SDPA",): BrokenProcessPool()}
    monkeypatch.setattr(contest, "alone", in_process(contest, fates, calls))
    found = contest.measure_batch(None, LABELS, 4)
    assert [names for names, _ in calls] == [tuple(LABELS), ("SDPA",), ("eager",)]
    assert calls[0][1] is None
    assert all((expected == np.ones(3)).all() for _, expected in calls[1:])
    assert [one.remark for one in found.values()] == ["", contest.DIED, "apart"]
    assert found["SDPA"].label == "theirs"


@pytest.mark.parametrize("end", [BrokenProcessPool(), RuntimeError("TypeError: of ours")])
def test_where_the_common_process_ends_each_has_its_own(contest, monkeypatch, end, capsys):
    calls = []
    fates = {tuple(LABELS): end, ("ours",): RuntimeError("TypeError: of ours")}
    monkeypatch.setattr(contest, "alone", in_process(contest, fates, calls))
    found = contest.measure_batch(None, LABELS, 4)
    assert [one.remark for one in found.values()] == ["failed, TypeError", "apart", "apart"]
    assert calls[2] == (("SDPA",), None)
    assert (calls[3][1] == np.ones(3)).all()
    assert "each is tried alone" in capsys.readouterr().err


def test_a_wrong_result_ends_all(contest, monkeypatch):
    alone = in_process(contest, {tuple(LABELS): AssertionError("another loss")}, [])
    monkeypatch.setattr(contest, "alone", alone)
    with pytest.raises(AssertionError, match="another loss"):
        contest.measure_batch(None, LABELS, 4)


def test_an_exception_that_cannot_be_sent_is_told_in_words(contest, capsys):
    class UnsendableError(Exception):
        def __init__(self, first, second):
            super().__init__(f"{first} {second}")

    def function():
        raise UnsendableError("no", "copy")

    with pytest.raises(RuntimeError, match=r"^UnsendableError: no copy$"):
        contest._guarded(function)
    assert "UnsendableError" in capsys.readouterr().err


def test_modes_of_compiling_are_tried_until_one_works(contest, capsys):
    tried = []

    def make(mode):
        tried.append(mode)
        if mode == "reduce-overhead":
            raise RuntimeError("no graphs")
        return contest.Contender(lambda times: times, mode, lambda: None)

    contender, first = contest.compiled_if_possible(make, ["reduce-overhead", "default", "none"])
    assert (contender.label, first, tried) == ("default", 1, ["reduce-overhead", "default"])
    assert "no graphs" in capsys.readouterr().err
    with pytest.raises(RuntimeError, match="no graphs"):
        contest.compiled_if_possible(make, ["reduce-overhead"])
