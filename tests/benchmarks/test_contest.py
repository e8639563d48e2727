"""Tests `benchmarks/contest.py`: rounds, wrong results, lack of memory, dying processes."""

from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "contest.py"
LABELS = {"ours": "ours", "SDPA": "theirs", "eager": "the original's"}


@pytest.fixture(scope="module")
def contest(load_script):
    return load_script(SCRIPT)


def maker(contest, result, runs=(), error=None):
    """Returns a maker of a contender that returns `result` and logs its repeats in `runs`."""

    def run(repeats):
        runs.append(repeats)
        return result

    def make():
        if error:
            raise error
        return contest.Contender(run, f"gives {result}", lambda: 7), result

    return make


def check_equal(label, result, expected):
    assert result == expected, f"{label}: {expected} was expected"


def test_contenders_take_turns_for_each_number_of_repeats(contest):
    first, second = [], []
    makers = {"ours": maker(contest, 1.0, first), "SDPA": maker(contest, 1.0, second)}
    found = contest.measure(makers, LABELS, check_equal, [1, 10], 3)
    assert first == second == [1, 1, 1, 10, 10, 10]
    assert found["SDPA"].seconds.shape == (2, 3)
    assert (found["SDPA"].seconds > 0).all()
    assert found["SDPA"][:2] == ("gives 1.0", 1.0)
    assert found["SDPA"].peak == 7


@pytest.mark.parametrize("expected", [None, 1.0])
def test_a_wrong_result_raises_before_anything_is_timed(contest, expected):
    runs = []
    makers = {"ours": maker(contest, 1.0, runs), "SDPA": maker(contest, 2.0, runs)}
    with pytest.raises(AssertionError, match=r"gives 2\.0: 1\.0 was expected"):
        contest.measure(makers, LABELS, check_equal, [1], 3, expected)
    assert not runs


def test_a_nonfinite_result_raises(contest):
    makers = {"ours": maker(contest, np.inf, [])}
    with pytest.raises(AssertionError, match="the result became inf"):
        contest.measure(makers, LABELS, check_equal, [1], 1)


def test_only_a_lack_of_memory_is_tolerated(contest):
    full = RuntimeError("RESOURCE_EXHAUSTED: 3 GiB")
    makers = {"ours": maker(contest, 1.0, []), "SDPA": maker(contest, 1.0, error=full)}
    found = contest.measure(makers, LABELS, check_equal, [1], 2)
    assert found["ours"].seconds.shape == (1, 2)
    assert found["SDPA"] == contest.Measurement("theirs", remark="out of memory")
    makers["SDPA"] = maker(contest, 1.0, error=RuntimeError("a wrong shape"))
    with pytest.raises(RuntimeError, match="a wrong shape"):
        contest.measure(makers, LABELS, check_equal, [1], 2)


def test_out_of_memory_while_timed_tells_no_time(contest):
    def run(repeats):
        raise MemoryError

    makers = {"ours": lambda: (contest.Contender(run, "ours", lambda: None), 1.0)}
    found = contest.measure(makers, LABELS, check_equal, [1], 1)
    assert found["ours"] == contest.Measurement("ours", 1.0, remark="out of memory")


def fake_run_in_process(contest, fates, calls):
    """Returns a `run_in_process` that raises or fills memory by `fates`, or returns ones."""

    def run_in_process(function, names, batch_size, expected):
        calls.append((names, expected))
        fate = fates.get(names)
        if isinstance(fate, Exception):
            raise fate
        found = {name: contest.Measurement(name, np.ones(3), np.ones((1, 2))) for name in names}
        full = {name: contest.Measurement(name, remark="out of memory") for name in fate or ()}
        return found | full

    return run_in_process


def test_a_contender_without_memory_is_measured_again_alone(contest, monkeypatch):
    calls = []
    fates = {tuple(LABELS): ("SDPA", "eager"), ("SDPA",): BrokenProcessPool()}
    monkeypatch.setattr(contest, "run_in_process", fake_run_in_process(contest, fates, calls))
    found = contest.measure_batch(None, LABELS, 4)
    assert [names for names, _ in calls] == [tuple(LABELS), ("SDPA",), ("eager",)]
    assert calls[0][1] is None
    assert all((expected == np.ones(3)).all() for _, expected in calls[1:])
    assert [one.remark for one in found.values()] == ["", contest.DIED, "apart"]
    assert found["SDPA"].label == "theirs"


@pytest.mark.parametrize("end", [BrokenProcessPool(), RuntimeError("TypeError: of ours")])
def test_each_contender_is_measured_alone_if_the_shared_process_fails(
    contest, monkeypatch, end, capsys
):
    calls = []
    fates = {tuple(LABELS): end, ("ours",): RuntimeError("TypeError: of ours")}
    monkeypatch.setattr(contest, "run_in_process", fake_run_in_process(contest, fates, calls))
    found = contest.measure_batch(None, LABELS, 4)
    assert [one.remark for one in found.values()] == ["failed, TypeError", "apart", "apart"]
    assert calls[2] == (("SDPA",), None)
    assert (calls[3][1] == np.ones(3)).all()
    assert "each is measured alone" in capsys.readouterr().err


def test_a_wrong_result_in_the_shared_process_raises(contest, monkeypatch):
    fake = fake_run_in_process(contest, {tuple(LABELS): AssertionError("another loss")}, [])
    monkeypatch.setattr(contest, "run_in_process", fake)
    with pytest.raises(AssertionError, match="another loss"):
        contest.measure_batch(None, LABELS, 4)


def test_an_exception_that_cannot_be_pickled_becomes_a_runtime_error(contest, capsys):
    class UnsendableError(Exception):
        def __init__(self, first, second):
            super().__init__(f"{first} {second}")

    def function():
        raise UnsendableError("no", "copy")

    with pytest.raises(RuntimeError, match=r"^UnsendableError: no copy$"):
        contest._guarded(function)
    assert "UnsendableError" in capsys.readouterr().err


def test_compile_modes_are_tried_until_one_works(contest, capsys):
    tried = []

    def make(mode):
        tried.append(mode)
        if mode == "reduce-overhead":
            raise RuntimeError("no graphs")
        return contest.Contender(lambda repeats: repeats, mode, lambda: None)

    contender, first = contest.compiled_if_possible(make, ["reduce-overhead", "default", "none"])
    assert (contender.label, first, tried) == ("default", 1, ["reduce-overhead", "default"])
    assert "no graphs" in capsys.readouterr().err
    with pytest.raises(RuntimeError, match="no graphs"):
        contest.compiled_if_possible(make, ["reduce-overhead"])
