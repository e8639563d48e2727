"""Measures contenders, ours and PyTorch's, in turn on one GPU or CPU.

Each batch size has its own process, in which all contenders take turns. A contender that runs out
of memory there is measured again in a process of its own, marked "apart"; so is each one if the
shared process fails. A result that differs from the first contender's ends the script.
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
from common import append_results
from device import default_dtype, free_memory, is_out_of_memory, reset_torch_peak
from models import SIZES

DIED = "its process died"  # most often the system killed it for its memory use


class Contender(NamedTuple):
    """Something to time.

    Attributes:
        run: repeats the work the given number of times, waits, and returns the last result.
        label: its name in the table.
        peak: returns its peak GPU memory so far in bytes, or None.
    """

    run: Callable[[int], Any]
    label: str
    peak: Callable[[], int | None]


class Measurement(NamedTuple):
    """The measurements of a contender.

    Attributes:
        label: its name in the table.
        first: the first result, or None if there is none.
        seconds: per repetition, (len(repeats), rounds), or None if it did not run.
        peak: peak GPU memory in bytes.
        remark: why it did not run, or how it ran.
    """

    label: str
    first: Any = None
    seconds: np.ndarray | None = None
    peak: int | None = None
    remark: str = ""


# ---- in a new process


def measure(
    makers: dict[str, Callable[[], tuple[Contender, Any]]],
    labels: dict[str, str],
    check: Callable[[str, Any, Any], None],
    repeats: Iterable[int],
    rounds: int,
    expected: Any = None,
) -> dict[str, Measurement]:
    """Checks that the contenders' first results agree, and times them in turn.

    Args:
        makers: functions by name that return a contender, warmed up, and its first result.
        labels: by name, for contenders that cannot be made.
        check: (label, result, expected) raises an AssertionError if the result is wrong.
        repeats: numbers of repetitions per measurement; each is timed in rounds of its own.
        rounds: the number of rounds.
        expected: the first result, if another process computed it.
    """
    found, contenders = {}, {}
    for name, make in makers.items():
        try:
            contender, first = make()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            found[name] = Measurement(labels[name], remark="out of memory")
        else:
            contenders[name] = contender
            found[name] = Measurement(contender.label, first, peak=contender.peak())
        contender = None  # frees its memory
        free_memory()
    for name in contenders:
        expected = found[name].first if expected is None else expected
        check(found[name].label, found[name].first, expected)
    try:
        seconds = np.array([time_rounds(contenders, count, rounds) for count in repeats])
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return {name: result._replace(remark="out of memory") for name, result in found.items()}
    for i, name in enumerate(contenders):
        found[name] = found[name]._replace(seconds=seconds[:, i])
    return found


def time_rounds(contenders: dict[str, Contender], repeats: int, rounds: int) -> np.ndarray:
    """Returns the seconds per repetition, (contenders, rounds)."""
    seconds = np.empty((len(contenders), rounds))
    rng, runners = np.random.default_rng(0), list(contenders.values())
    for i in range(rounds):
        # In random order: the state of caches and memory depends on the contender before.
        for j in rng.permutation(len(runners)):
            contender = runners[j]
            start = time.perf_counter()
            result = contender.run(repeats)
            seconds[j, i] = (time.perf_counter() - start) / repeats
            assert np.isfinite(result).all(), f"{contender.label}: the result became {result}"
    return seconds


def compiled_if_possible(
    make: Callable[[str], Contender], modes: Sequence[str]
) -> tuple[Contender, Any]:
    """Returns PyTorch's contender in the first mode that compiles, and its first result.

    Args:
        make: returns the contender for a mode of torch.compile, or for 'none'.
        modes: the modes to try, in order.
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
            reset_torch_peak()
            return contender, first
        torch.compiler.reset()
        free_memory()
    contender = make(modes[-1])
    first = contender.run(1)
    reset_torch_peak()
    return contender, first


# ---- in the main process


def run_in_process(function: Callable, *arguments: Any) -> Any:
    """Calls the function in a new process, whose end frees all its memory, and returns the result.

    Raises:
        AssertionError, SystemExit: if the function raises it.
        RuntimeError: if the function raises anything else; the process prints the traceback.
        BrokenProcessPool: if the process dies.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_guarded, function, *arguments).result()


def _guarded(function: Callable, *arguments: Any) -> Any:
    """Calls the function; raises a RuntimeError for exceptions that may not pickle."""
    try:
        return function(*arguments)
    except AssertionError:
        raise
    except Exception as error:
        traceback.print_exc()
        raise RuntimeError(f"{type(error).__name__}: {error}"[:500]) from None


def measure_batch(
    function: Callable[..., dict[str, Measurement]],
    labels: dict[str, str],
    *arguments: Any,
) -> dict[str, Measurement]:
    """Measures all contenders in one process, and in a process each where that fails.

    Args:
        function: (names, *arguments, expected) → the results of `measure` for these names.
        labels: of all contenders, by name.
        *arguments: for the function.
    """
    found: dict[str, Measurement] = {}
    try:
        found = run_in_process(function, tuple(labels), *arguments, None)
    except (BrokenProcessPool, RuntimeError) as error:
        print(f"all together: {error}; each is measured alone", file=sys.stderr, flush=True)
    for name in labels:
        if name in found and found[name].seconds is not None:
            continue
        firsts = (other.first for other in found.values())
        expected = next((first for first in firsts if first is not None), None)
        again = measure_alone(function, name, labels[name], *arguments, expected)
        found[name] = again if again.remark else again._replace(remark="apart")
    return {name: found[name] for name in labels}


def measure_alone(
    function: Callable[..., dict[str, Measurement]], name: str, label: str, *arguments: Any
) -> Measurement:
    """Measures one contender in a new process; the remark describes a failure."""
    try:
        return run_in_process(function, (name,), *arguments)[name]
    except BrokenProcessPool:
        return Measurement(label, remark=DIED)
    except RuntimeError as error:
        return Measurement(label, remark=f"failed, {str(error).split(':')[0]}")


def print_table(
    command: list[str],
    title: str,
    setup: str,
    header: list[str],
    batches: Iterable[tuple[list[str], Iterable[Measurement]]],
    append_to: Path | None,
) -> None:
    """Prints a table row by row as it is measured, and appends it to a file of results.

    Args:
        command: the command line.
        title: of the table's section in the file.
        setup: device and versions.
        header: of the table.
        batches: yields the next rows, and the measurements that they show.
        append_to: the file, or None.

    Raises:
        SystemExit: at the end, if a measurement failed for another reason than memory.
    """
    lines, failed = list(header), False
    print(*lines, sep="\n", flush=True)
    try:
        for rows, measurements in batches:
            print(*rows, sep="\n", flush=True)
            lines += rows
            failed |= any(one.remark.startswith("failed") for one in measurements)
    finally:  # also keeps the rows measured before an error or interrupt
        if append_to and len(lines) > len(header):
            append_results(append_to, title, command, setup, lines)
    if failed:
        sys.exit("some measurements failed; the errors are above")


def make_parser(description: str, dtypes: Sequence[str]) -> argparse.ArgumentParser:
    """Returns a parser with the scripts' common arguments."""
    parser = argparse.ArgumentParser(description=description.split("\n")[0])
    parser.add_argument("--size", choices=list(SIZES), default="base384")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--dtype",
        choices=dtypes,
        help="default: bfloat16 on a GPU, float32 on a CPU",
    )
    parser.add_argument(
        "--compile",
        choices=["none", "default", "reduce-overhead", "max-autotune"],
        help="mode of torch.compile; default on a CPU: none",
    )
    parser.add_argument("--tiny", action="store_true", help="a small model, to try the script")
    parser.add_argument("--append", type=Path, metavar="FILE", help="add the table to this file")
    return parser


def tolerance(by_dtype: dict[str, float], arguments: argparse.Namespace, kind: str) -> float:
    """Returns the tolerance for the dtype; GPUs multiply float32 as TF32 in both frameworks."""
    dtype = arguments.dtype or default_dtype(kind)
    return by_dtype["tf32" if (dtype, kind) == ("float32", "cuda") else dtype]


def peer_label(name: str, dtype: str, mode: str) -> str:
    """Returns a peer's label; `mode` is that of torch.compile, or 'none'."""
    parts = ["Hugging Face", name, dtype]
    if mode != "none":
        parts.append("compiled" if mode == "default" else f"compiled ({mode})")
    return ", ".join(parts)
