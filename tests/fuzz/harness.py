"""Runs seeded cases in child processes with limits, and counts how they end.

A case is a function of a module in this folder: `case(seed, folder)` makes its input in the empty
`folder` and gives it to the product. It returns if the product answers, and raises `InputError` if
the product refuses, which are the two clean ends. It raises `WrongAnswerError` if it knows better,
and lets any other exception out.

A child runs cases one after another. If one hangs, crashes or takes too much memory, only that
child ends, and another runs the cases that are left. To repeat one in this process, in the root of
the repository:

    python -m tests.fuzz.harness tests.fuzz.audio load 17
"""

import contextlib
import importlib
import json
import os
import re
import resource
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
ENDS = ("answer", "refusal", "wrong answer", "traceback", "crash", "hang", "memory")
CLEAN = ENDS[:2]
START = 120  # seconds for a child to import what its cases need

Case = Callable[[int, Path], None]


class WrongAnswerError(AssertionError):
    """Raised by a case if the product's answer is wrong."""


class Result(NamedTuple):
    """The end of a case.

    Attributes:
        seed: of the case.
        end: one of `ENDS`.
        detail: the message of a refusal, or of an unclean end.
        seconds: the duration.
        megabytes: the most memory that the case held beyond that held before it.
    """

    seed: int
    end: str
    detail: str = ""
    seconds: float = 0.0
    megabytes: float = 0.0


def run_cases(
    module: str,
    case: str,
    seeds: Iterable[int],
    *,
    seconds: float = 10,
    megabytes: int = 2048,
) -> list[Result]:
    """Runs a case for each seed and returns the results in order.

    Args:
        module: the module with the case, such as "tests.fuzz.audio".
        case: the name of the function.
        seeds: of the cases.
        seconds: a case that takes longer is a hang, and is ended.
        megabytes: a case that takes more memory beyond that of the imports ends as "memory".
    """
    left, results = list(seeds), []
    while left:
        done = _run_child(module, case, left, seconds, megabytes)
        results += done
        left = left[len(done) :]
    return results


def table(results: Iterable[Result]) -> str:
    """Returns the counts of all ends, the worst time and memory, and the unclean cases."""
    results = list(results)
    counts = Counter(result.end for result in results)
    lines = [f"{end:13} {counts[end]:6}" for end in ENDS]
    lines.append(f"longest       {max(r.seconds for r in results):8.1f} s")
    lines.append(f"most memory   {max(r.megabytes for r in results):6.0f} MB")
    lines += [f"{r.seed}: {r.end}: {r.detail}" for r in results if r.end not in CLEAN]
    return "\n".join(lines)


def _run_child(
    module: str, case: str, seeds: list[int], seconds: float, megabytes: int
) -> list[Result]:
    """Runs cases until all are done or one ends the child; returns at least one result."""
    code = "from tests.fuzz import harness; harness.serve()"
    command = [sys.executable, "-c", code, module, case, str(megabytes)]
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        errors = Path(folder) / "stderr"
        with errors.open("wb") as stderr:
            child = subprocess.Popen(
                [*command, folder],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                cwd=ROOT,
                env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONFAULTHANDLER": "1"},
                start_new_session=True,  # so that its own children end with it
            )
        try:
            return _read_results(child, seeds, seconds, errors)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.communicate()


def _read_results(
    child: subprocess.Popen[str], seeds: list[int], seconds: float, errors: Path
) -> list[Result]:
    """Sends the child one seed at a time and reads a line for each."""
    assert child.stdin is not None
    results: list[Result] = []
    if not (started := _read_line(child, START)):
        raise RuntimeError(f"the child did not start: {started!r} {errors.read_text()[-2000:]}")
    for seed in seeds:
        begun = time.monotonic()
        child.stdin.write(f"{seed}\n")
        child.stdin.flush()
        line = _read_line(child, seconds)
        took = time.monotonic() - begun
        if line is None:
            return [*results, Result(seed, "hang", f"more than {seconds} s", took)]
        if not line:
            text = errors.read_text(errors="replace")[-500:]
            end = "memory" if re.search("MemoryError|bad_alloc|allocate memory", text) else "crash"
            return [*results, Result(seed, end, f"status {child.wait()}: {text}", took)]
        results.append(Result(seed, *json.loads(line)))
        if results[-1].end == "memory":
            return results  # what it holds may never be freed
    return results


def _read_line(child: subprocess.Popen[str], seconds: float) -> str | None:
    """Returns a line of the child, "" if it has ended and None if it is silent for `seconds`."""
    assert child.stdout is not None
    ready, _, _ = select.select([child.stdout], [], [], seconds)
    return child.stdout.readline() if ready else None


# ---- in the child


def serve() -> None:
    """Runs the case for each seed on stdin and prints a line for each, in a child."""
    module, name, megabytes, folder = sys.argv[1:]
    # What the product prints must not mix with the results.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    case = load_case(module, name)
    # Twice the limit, so that a case that is over it mostly lives to tell by how much.
    limit = _status("VmData") + 2 * int(megabytes) * 2**20
    resource.setrlimit(resource.RLIMIT_DATA, (limit, resource.RLIM_INFINITY))
    print("started", file=answers)
    for line in sys.stdin:
        place = Path(folder) / "case"
        place.mkdir()
        result = run_case(case, int(line), place, int(megabytes))
        print(json.dumps(result[1:]), file=answers)
        shutil.rmtree(place, ignore_errors=True)


def load_case(module: str, name: str) -> Case:
    """Returns the function of a module."""
    return getattr(importlib.import_module(module), name)


def run_case(case: Case, seed: int, folder: Path, megabytes: int = 2048) -> Result:
    """Runs one case in this process."""
    from ast_jax.errors import InputError

    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    before, begun, detail = _status("VmRSS"), time.monotonic(), ""
    try:
        case(seed, folder)
        end = "answer"
    except InputError as error:
        detail = str(error)
        end = "wrong answer" if "\n" in detail else "refusal"  # which is one line
    except WrongAnswerError as error:
        end, detail = "wrong answer", str(error)
    except MemoryError as error:
        end, detail = "memory", repr(error)
    except BaseException:
        end, detail = "traceback", traceback.format_exc()
    took = time.monotonic() - begun
    used = (_status("VmHWM") - before) / 2**20
    if used > megabytes:
        end, detail = "memory", f"{used:.0f} MB; {detail}"
    return Result(seed, end, detail, took, used)


def _status(field: str) -> int:
    """Returns a field of this process's status in bytes: memory held, the most of it, or data."""
    text = Path("/proc/self/status").read_text()
    return 1024 * int(re.findall(rf"^{field}:\s*(\d+)", text, re.MULTILINE)[0])


def _main() -> None:
    module, name, seed = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        result = run_case(load_case(module, name), int(seed), Path(folder))
    sys.stdout.write(f"{result}\n")


if __name__ == "__main__":
    _main()
