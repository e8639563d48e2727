"""Times the input pipeline against PyTorch's DataLoader, and `prepare`.

    python benchmarks/pipeline.py [--sections pipeline prepare] [--source DIR] [--tiny]

Needs torch and transformers (the extra `test`), the package's dependencies for datasets, and
torchaudio for the original's features. Each section checks that all results agree, then times each
contender in turn; ratios are medians of the rounds' ratios. Linear algebra uses one thread in every
process, as the DataLoader is slower with more. `frontend.py` times the features alone.

pipeline: training batches of AudioSet's recipe, half of the clips mixed with another. Ours read a
prepared set; the DataLoader does the original's work on the same clips' WAV files. All workers
start before the timing and idle while another contender is timed. "Busy" adds a thread that spins
in Python in the consuming process. This thread takes one core, so as many workers as cores lose
throughput even without the GIL. CPU time is that of this process and its workers, without the
spinning thread. "In an extraction" is a rate per duration of one call of Hugging Face's extractor,
measured before and after, so that rates from different machines can be compared.

prepare: converts a folder of sound files to a prepared set, with processes that are running.
"""

import argparse
import contextlib
import importlib.util
import os
import platform
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import islice, repeat
from multiprocessing import get_context
from pathlib import Path
from typing import Any

for library in ("OMP", "OPENBLAS", "MKL"):  # read when NumPy is imported, also in workers
    os.environ[f"{library}_NUM_THREADS"] = "1"

import numpy as np  # noqa: E402
from common import RATE, cpu_name, hugging_face_extractor, quartiles, versions  # noqa: E402

sys.path.insert(0, str(Path(__file__).parent.parent))

# Workers import this file too, so heavy or optional packages are imported where they are used.
REQUIRED = {
    "pipeline": [
        *("array_record", "soundfile", "soxr", "tensorflow", "tensorflow_datasets"),
        *("torch", "transformers"),
    ],
    "prepare": ["array_record", "soundfile", "soxr", "tensorflow", "tensorflow_datasets", "torch"],
}
MIXUP = 0.5  # as in AudioSet's recipe
CALLS = 5  # of Hugging Face's extractor, before and after a pipeline is timed
ENDLESS = range(10**9)


# ---- pipeline


class BusyPython:
    """Runs a thread that competes for the GIL; `seconds` is the CPU time that it used."""

    def __enter__(self) -> "BusyPython":
        self.seconds, self._stop = 0.0, False
        self._thread = threading.Thread(target=self._spin)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop = True
        self._thread.join()

    def _spin(self) -> None:
        while not self._stop:
            sum(i * i for i in range(1000))
            self.seconds = time.thread_time()


def cpu_seconds() -> float:
    """Returns the CPU time of this process and of its running descendants."""
    import psutil

    children = [child.cpu_times() for child in psutil.Process().children(recursive=True)]
    return time.process_time() + sum(times.user + times.system for times in children)


def wait_for_workers() -> None:
    """Waits until the prefetched batches are ready, for at most three seconds."""
    for _ in range(6):
        before = cpu_seconds()
        time.sleep(0.5)
        if cpu_seconds() - before < 0.05:
            return


def measure(
    stream: Iterator, workers: int, seconds: float, busy: BusyPython | None
) -> tuple[float, float]:
    """Returns batches per second and per second of CPU time, without the prefetched batches."""

    def used() -> float:
        return cpu_seconds() - (busy.seconds if busy else 0)

    together = max(workers, 1)
    for _ in range(2 * (workers or os.cpu_count() or 1) + 2):
        next(stream)
    count, cpu, start = 0, used(), time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds or count < 2 * together:
        for _ in range(together):  # workers take turns and may finish at the same time
            next(stream)
        count += together
    return count / elapsed, count / (used() - cpu)


def time_pipelines(arguments: argparse.Namespace, folder: Path) -> None:
    """Runs the section `pipeline`."""
    import pipeline_peer as peer

    from ast_jax.audio.feature_extractor import ASTFeatureExtractor
    from ast_jax.data.batches import InputBuilder, TrainBatches
    from ast_jax.data.loader import stream
    from ast_jax.data.prepare.run_builder import prepare
    from ast_jax.data.prepared import open_prepared, read_prepared

    folders, files = peer.write_clips(folder, arguments.source, arguments.clips)
    prepare("folder", folders["WAV, 16 kHz"], folder / "prepared")
    data = read_prepared(open_prepared(folder / "prepared"), RATE, "train", "test", fold=1)
    classes = [(file, data.labels.index(file.parent.name)) for file in files]
    frontend, _ = peer.model_input()

    # Both read the same clips and compute the same features.
    extractor = ASTFeatureExtractor()
    names = [f"{file.parent.name}/{file.name}" for file in files]
    waveform = data.train.waveforms[list(data.train.names).index(names[0])]
    inputs = InputBuilder(extractor)
    ours = inputs.empty(1)
    inputs.fill(ours, 0, waveform)
    theirs, _ = peer.Recordings(classes, len(data.labels), mixup=0.0)[0]
    peer.check(frontend, theirs, ours["input_values"][0], 1e-2)

    # The speed of a shared machine varies; this call is a measure of it.
    extract, floats = hugging_face_extractor(), waveform / np.float32(32768)

    def extraction_seconds() -> float:
        wait_for_workers()
        times = []
        for _ in range(CALLS):
            start = time.perf_counter()
            extract(floats)
            times.append(time.perf_counter() - start)
        return float(np.median(times))

    size = min(arguments.batch, len(files))
    host, waveforms = "ours, features on the host", "ours, no features"
    loader = f"DataLoader, {frontend}"
    contenders: dict[tuple[str, int], Iterator] = {}
    with contextlib.ExitStack() as stack:
        for name, on_device in ((waveforms, True), (host, False)):
            batches = TrainBatches(data.train, InputBuilder(extractor, on_device), 0, size, MIXUP)
            expected = [batches(i) for i in range(4)]
            for workers in arguments.workers:
                made = stack.enter_context(contextlib.closing(stream(batches, ENDLESS, workers)))
                for a, b in zip(expected, islice(made, len(expected)), strict=True):
                    same = a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)
                    assert same, f"{name}: batches of {workers} workers differ"
                contenders[name, workers] = made
        recordings = peer.Recordings(classes, len(data.labels), MIXUP)
        for workers in filter(None, arguments.workers):
            contenders[loader, workers] = peer.batches(recordings, size, workers)

        # (rounds, idle or busy, clips per second or per second of CPU time)
        rates = {key: np.empty((arguments.rounds, 2, 2)) for key in contenders}
        extractions = {key: np.empty(arguments.rounds) for key in contenders}
        for i in range(arguments.rounds):
            for key in contenders:
                before = extraction_seconds()
                rates[key][i, 0] = measure(contenders[key], key[1], arguments.seconds, None)
                extractions[key][i] = (before + extraction_seconds()) / 2
                with BusyPython() as busy:
                    rates[key][i, 1] = measure(contenders[key], key[1], arguments.seconds, busy)
                rates[key][i] *= size
        contenders.clear()  # stops the DataLoaders' workers
    print_pipelines(rates, extractions, size)
    for workers in filter(None, arguments.workers):
        ratio = rates[host, workers] / rates[loader, workers]
        print(
            f"features on the host, workers {workers}, against the DataLoader: "
            f"{quartiles(ratio[:, 0, 0], 'x')} clips/s, {quartiles(ratio[:, 0, 1], 'x')} clips per "
            f"CPU second, {quartiles(ratio[:, 1, 0], 'x')} clips/s while Python is busy"
        )


def print_pipelines(
    rates: dict[tuple[str, int], np.ndarray],
    extractions: dict[tuple[str, int], np.ndarray],
    size: int,
) -> None:
    """Prints the section's table.

    Args:
        rates: (rounds, idle or busy, clips per second or per second of CPU time) by (name,
            workers).
        extractions: seconds of Hugging Face's extractor for one clip, by round.
        size: clips per batch.
    """
    print(
        f"\n{f'pipeline: batches of {size} clips':43} {'workers':>7} {'clips/s':>8} "
        f"{'a process':>9} {'a CPU second':>12} {'busy: clips/s':>13} {'lost (quartiles)':>24} "
        f"{'a process, in an extraction':>27}"
    )
    for (name, workers), by_round in rates.items():
        (idle, idle_cpu), (busy, _) = np.median(by_round, axis=0)
        lost = quartiles(100 * (1 - by_round[:, 1, 0] / by_round[:, 0, 0]), " %")
        during = by_round[:, 0, 0] / max(workers, 1) * extractions[name, workers]
        print(
            f"{name:43} {workers:7} {idle:8.1f} {idle / max(workers, 1):9.1f} {idle_cpu:12.1f} "
            f"{busy:13.1f} {lost:>24} {quartiles(during):>27}"
        )
    print("workers 0: threads of this process, on all cores; otherwise each worker is a process")
    milliseconds = 1e3 * np.concatenate(list(extractions.values()))
    print(
        f"an extraction: one clip by Hugging Face's extractor (NumPy), measured before and after "
        f"each row: {quartiles(milliseconds, ' ms')}"
    )


# ---- prepare


def initialize_worker(barrier: Any) -> None:
    """Imports the package in a new process and waits for the other processes."""
    import ast_jax.data.prepare.run_builder  # noqa: F401

    barrier.wait()


def do_nothing(_: int) -> None:
    """Returns at once: a task that makes a pool start its processes."""


def time_prepare(arguments: argparse.Namespace, folder: Path) -> None:
    """Runs the section `prepare`."""
    from pipeline_peer import write_clips

    from ast_jax.data.prepare.builder import AudioBuilder
    from ast_jax.data.prepare.run_builder import prepare
    from ast_jax.data.prepare.shard import write_shard

    few, _ = write_clips(folder / "few", arguments.source, 4)
    folders, _ = write_clips(folder / "all", arguments.source, arguments.clips)
    start = time.perf_counter()
    prepare("folder", few["WAV, 16 kHz"], folder / "few", processes=2)
    start_up = time.perf_counter() - start

    rates: dict[tuple[str, int], list] = {(n, p): [] for n in folders for p in (1, 2)}
    with contextlib.ExitStack() as stack:
        pools = {}
        for processes in (1, 2):
            context = get_context("spawn")
            pool = ProcessPoolExecutor(
                processes, context, initialize_worker, (context.Barrier(processes),)
            )
            pools[processes] = stack.enter_context(pool)
            list(pool.map(do_nothing, range(processes)))  # returns when all of them have started
        for _ in range(arguments.rounds):
            for name, processes in rates:

                def write(shards: list, labels: list[str], pool: Any = pools[processes]) -> Any:
                    return pool.map(write_shard, shards, repeat(labels))

                cpu, start = cpu_seconds(), time.perf_counter()
                output = folder / "prepared"
                builder = AudioBuilder(
                    "folder", source=folders[name], data_dir=output, write_shards=write
                )
                builder.download_and_prepare(download_dir=output / "no downloads")
                seconds = time.perf_counter() - start, cpu_seconds() - cpu
                clips = sum(split.num_examples for split in builder.info.splits.values())
                rates[name, processes].append(clips / np.array(seconds))
                shutil.rmtree(output)
    print(
        f"\n{f'prepare: {clips} clips':43} {'processes':>9} {'clips/s':>8} {'a process':>9} "
        f"{'a CPU second':>12} {'over 1 process (quartiles)':>28}"
    )
    for (name, processes), by_round in rates.items():
        rate, rate_per_cpu = np.median(by_round, axis=0)
        scaling = np.array(by_round)[:, 0] / np.array(rates[name, 1])[:, 0]
        print(
            f"{name:43} {processes:9} {rate:8.1f} {rate / processes:9.1f} {rate_per_cpu:12.1f} "
            f"{quartiles(scaling, 'x'):>28}"
        )
    print(f"`prepare` of 4 clips by 2 processes, mostly start-up: {start_up:.1f} s")


SECTIONS = {"pipeline": time_pipelines, "prepare": time_prepare}


def main() -> None:
    """Runs the selected sections whose packages can be imported."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sections", nargs="+", choices=list(SECTIONS), default=list(SECTIONS))
    parser.add_argument("--source", default="", help="a folder of sound files; generated if empty")
    parser.add_argument("--clips", type=int, default=400, help="at most; half are for training")
    parser.add_argument("--batch", type=int, default=12)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--seconds", type=float, default=3.0, help="of timing per pipeline")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tiny", action="store_true", help="a few clips, to try the script")
    arguments = parser.parse_args()
    if arguments.tiny:
        tiny = {"clips": 8, "batch": 2, "workers": [0, 1], "seconds": 0.1, "rounds": 1}
        vars(arguments).update(tiny)
    if arguments.clips < 4:
        parser.error(f"--clips is {arguments.clips}; give 4 or more")
    print(f"{cpu_name()}, {os.cpu_count()} cores; Python {platform.python_version()}")
    print(versions(["jax", "numpy", "scipy", "torch", "torchaudio", "transformers", "tensorflow"]))
    for section in arguments.sections:
        missing = [name for name in REQUIRED[section] if importlib.util.find_spec(name) is None]
        if missing:
            print(f"\n{section}: skipped, as {', '.join(missing)} cannot be imported")
            continue
        with tempfile.TemporaryDirectory(prefix="ast_jax_benchmark_") as folder:
            SECTIONS[section](arguments, Path(folder))


if __name__ == "__main__":
    main()
