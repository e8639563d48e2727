"""Ours beside PyTorch's on one GPU or CPU: rounds, processes, and what their scripts share.

Every batch size has a process of its own, in which all contenders take their turns. One that runs
out of memory beside the others is tried again alone, as is each if that process fails; its rounds
are then no longer the others'. A contender with another result than the first ends the script.
"""

import argparse
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from device import clean_up, default_dtype, forget_torch_peak, is_out_of_memory
from models import SIZES

DIED = "its process died"  # killed by the system, for memory, more often than not


class Contender(NamedTuple):
    """A model at work.

    Attributes:
        run: does its work so many times, waits for the last and returns its result.
        label: what the table calls it.
        peak: the most bytes it held on a GPU so far, or None.
    """

    run: Callable[[int], Any]
    label: str
    peak: Callable[[], int | None]


class Measured(NamedTuple):
    """What was found of a contender.

    Attributes:
        label: what the table calls it.
        first: the first result, or None if there was none.
        seconds: of one turn of its work, (what was timed, rounds); None if it did not run.
        peak: bytes, on a GPU.
        remark: why it did not run, or how it ran.
    """

    label: str
    first: Any = None
    seconds: np.ndarray | None = None
    peak: int | None = None
    remark: str = ""


# ---- in a process of their own


def measure(
    makers: dict[str, Callable[[], tuple[Contender, Any]]],
    labels: dict[str, str],
    check: Callable[[str, Any, Any], None],
    repeats: Iterable[int],
    rounds: int,
    expected: Any = None,
) -> dict[str, Measured]:
    """Checks that the contenders' first results agree, and times them in turn.

    Args:
        makers: of each contender, by name; they give it warmed up, with its first result.
        labels: what the table calls one that cannot be made.
        check: (label, result, expected) raises an AssertionError if the result is wrong.
        repeats: how often a contender works before it is waited for; each has rounds of its own.
        rounds: how often all take their turns.
        expected: the first result, if another process knows it.
    """
    found, contenders = {}, {}
    for name, make in makers.items():
        try:
            contender, first = make()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            found[name] = Measured(labels[name], remark="out of memory")
        else:
            contenders[name] = contender
            found[name] = Measured(contender.label, first, peak=contender.peak())
        contender = None  # of one that failed nothing stays in memory
        clean_up()
    for name in contenders:
        expected = found[name].first if expected is None else expected
        check(found[name].label, found[name].first, expected)
    try:
        seconds = np.array([time_rounds(contenders, times, rounds) for times in repeats])
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return {name: one._replace(remark="out of memory") for name, one in found.items()}
    for i, name in enumerate(contenders):
        found[name] = found[name]._replace(seconds=seconds[:, i])
    return found


def time_rounds(contenders: dict[str, Contender], times: int, rounds: int) -> np.ndarray:
    """Seconds of one of so many turns before one waits, (contenders, rounds)."""
    seconds = np.empty((len(contenders), rounds))
    rng, all_of_them = np.random.default_rng(0), list(contenders.values())
    for i in range(rounds):
        # In another order each time: what one leaves in caches and memory slows who comes after.
        for j in rng.permutation(len(all_of_them)):
            contender = all_of_them[j]
            start = time.perf_counter()
            result = contender.run(times)
            seconds[j, i] = (time.perf_counter() - start) / times
            assert np.isfinite(result).all(), f"{contender.label}: the result became {result}"
    return seconds


def compiled_if_possible(
    make: Callable[[str], Contender], modes: Sequence[str]
) -> tuple[Contender, Any]:
    """PyTorch's contender and its first result.

    Args:
        make: a contender by the mode of torch.compile, or by 'none'.
        modes: those to try, one after another, until one compiles.
    """
    import torch

    for mode in modes[:-1]:
        try:
            contender = make(mode)
            first = contender.run(1)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            print(f"torch.compile failed in mode {mode}:", file=sys.stderr)
            traceback.print_exc()
            contender = None
        else:
            forget_torch_peak()
            return contender, first
        torch.compiler.reset()
        clean_up()
    contender = make(modes[-1])
    first = contender.run(1)
    forget_torch_peak()
    return contender, first


# ---- in the first process


def alone(function: Callable, *arguments: Any) -> Any:
    """What the function returns in a new process, which gives back all memory at its end.

    Raises:
        AssertionError, SystemExit: the function raised it.
        RuntimeError: it raised another; that process has printed its traceback.
        BrokenProcessPool: the process died.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_guarded, function, *arguments).result()


def _guarded(function: Callable, *arguments: Any) -> Any:
    """The function, whose exceptions another process can read: not all of both frameworks' can."""
    try:
        return function(*arguments)
    except AssertionError:
        raise
    except Exception as error:
        traceback.print_exc()
        raise RuntimeError(f"{type(error).__name__}: {error}"[:500]) from None


def measure_batch(
    function: Callable[..., dict[str, Measured]],
    labels: dict[str, str],
    *arguments: Any,
) -> dict[str, Measured]:
    """All contenders beside one another, or by themselves where that fails.

    Args:
        function: (names, *arguments, expected) → what `measure` gives for these.
        labels: of all contenders, by name.
        *arguments: the function's.
    """
    found: dict[str, Measured] = {}
    try:
        found = alone(function, tuple(labels), *arguments, None)
    except (BrokenProcessPool, RuntimeError) as error:
        print(f"all together: {error}; each is tried alone", file=sys.stderr, flush=True)
    for name in labels:
        if name in found and found[name].seconds is not None:
            continue
        firsts = (other.first for other in found.values())
        expected = next((first for first in firsts if first is not None), None)
        again = measure_alone(function, name, labels[name], *arguments, expected)
        found[name] = again if again.remark else again._replace(remark="apart")
    return {name: found[name] for name in labels}


def measure_alone(
    function: Callable[..., dict[str, Measured]], name: str, label: str, *arguments: Any
) -> Measured:
    """One contender in a process of its own; of a failure that is not a wrong result the remark."""
    try:
        return alone(function, (name,), *arguments)[name]
    except BrokenProcessPool:
        return Measured(label, remark=DIED)
    except RuntimeError as error:
        return Measured(label, remark=f"failed, {str(error).split(':')[0]}")


def make_parser(description: str, dtypes: Sequence[str]) -> argparse.ArgumentParser:
    """What the scripts' command lines have in common."""
    parser = argparse.ArgumentParser(description=description.split("\n")[0])
    parser.add_argument("--size", choices=list(SIZES), default="base384")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--dtype",
        choices=dtypes,
        help="bfloat16 on a GPU and float32 on a CPU if left out",
    )
    parser.add_argument(
        "--compile",
        choices=["none", "default", "reduce-overhead", "max-autotune"],
        help="mode of torch.compile; none on a CPU if left out",
    )
    parser.add_argument("--tiny", action="store_true", help="a small model, to try the script")
    parser.add_argument("--append", type=Path, metavar="FILE", help="add the table to this file")
    return parser


def tolerance(of_dtypes: dict[str, float], arguments: argparse.Namespace, kind: str) -> float:
    """That of the command line's dtype; on a GPU both frameworks multiply float32 as TF32."""
    dtype = arguments.dtype or default_dtype(kind)
    return of_dtypes["tf32" if (dtype, kind) == ("float32", "cuda") else dtype]


def peer_label(name: str, dtype: str, mode: str) -> str:
    """What a table calls a peer that torch.compile compiled in a mode, or 'none'."""
    parts = ["Hugging Face", name, dtype]
    if mode != "none":
        parts.append("compiled" if mode == "default" else f"compiled ({mode})")
    return ", ".join(parts)
