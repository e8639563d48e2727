"""Measures the latency and the real-time factor of a stream, against Hugging Face's AST.

    python benchmarks/streaming.py [--sizes tiny224 base384] [--hop 1] [--rounds 15] [--tiny]
        [--append benchmarks/RESULTS.md]

Needs torch and transformers (the extra `test`). Both contenders have the same random weights and
classify windows of the model's input, 10.24 s. Ours, `StreamingClassifier`, is pushed chunks of
0.1 s of int16 at 16 kHz. The peer computes the features of each window from its start, as a loop
around Hugging Face's extractor and model does. The scores of the first window must agree. Each
round is a hop of both, in turn; ratios are medians of the rounds' ratios.

The latency of a sound is at most the hop, until a window ends with it, and the time from the last
sample of a window to its scores. A real-time factor beyond 1 means that a stream falls behind.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from common import (
    RATE,
    append_results,
    hugging_face_extractor,
    make_clip,
    quartiles,
    table_header,
    table_row,
)
from device import describe, torch_precision
from models import SIZES, make_extractor, make_weights, model_fields

CHUNK = RATE // 10
TOLERANCE = 2e-3  # of probabilities

HEADER = table_header(
    *("model", "", "from the last sample to the scores", "latency at most", "real-time factor"),
    "time / ours (quartiles)",
)


class Rounds(NamedTuple):
    """Seconds of each round.

    Attributes:
        last: from the last sample of the window to its scores.
        whole: all that was computed in a hop.
    """

    last: np.ndarray
    whole: np.ndarray


def measure(size: str, tiny: bool, hop: float, rounds: int, kind: str) -> dict[str, Rounds]:
    """Checks that both agree, and times them in turn."""
    from ast_jax.checkpoint.format import Checkpoint
    from ast_jax.inference.classifier import AudioClassifier
    from ast_jax.inference.streaming import StreamingClassifier

    config, weights, params = make_weights(model_fields(size, tiny))
    config = config.replace(problem_type="multi_label_classification")
    classifier = AudioClassifier(Checkpoint(config, make_extractor(config), params))
    streaming = StreamingClassifier(classifier, hop=hop)
    peer = hugging_face(weights, config.max_length, model_fields(size, tiny), kind)

    length, step = round(streaming.window * RATE), round(streaming.hop * RATE)
    clips = [make_clip(i) for i in range(1 + (length + rounds * step) // (10 * RATE))]
    sound = np.concatenate(clips)
    (first,) = streaming.push(sound[:length], RATE)
    error = np.abs(first.scores - peer(sound[:length])).max()
    assert error <= TOLERANCE, f"probabilities differ by {error}"
    ours, theirs = [], []
    for end in range(length + step, length + rounds * step + 1, step):
        pushes = []
        windows = 0
        for start in range(end - step, end, CHUNK):
            begin = time.perf_counter()
            windows += len(streaming.push(sound[start : min(start + CHUNK, end)], RATE))
            pushes.append(time.perf_counter() - begin)
        assert windows == 1
        ours.append((pushes[-1], sum(pushes)))
        begin = time.perf_counter()
        peer(sound[end - length : end])
        theirs.append(2 * [time.perf_counter() - begin])
    return {
        "ours": Rounds(*np.array(ours).T),
        "Hugging Face, a window at a time": Rounds(*np.array(theirs).T),
    }


def hugging_face(weights: Any, max_length: int, fields: dict[str, Any], kind: str) -> Any:
    """Returns a function: int16 waveform of a window → probabilities."""
    import torch
    import transformers

    torch_precision(kind)
    config = transformers.ASTConfig(**fields, num_labels=527, attn_implementation="sdpa")
    model = transformers.ASTForAudioClassification(config).eval()
    model.load_state_dict(weights)
    model = model.to(kind)
    extract = hugging_face_extractor(max_length)

    @torch.inference_mode()
    def classify(waveform: np.ndarray) -> np.ndarray:
        inputs = torch.from_numpy(extract(waveform / np.float32(2**15)))[None]
        return model(inputs.to(kind)).logits.sigmoid()[0].cpu().numpy()

    return classify


def table_rows(model: str, found: dict[str, Rounds], hop: float) -> list[str]:
    """Returns the rows of a model."""
    rows = []
    for name, rounds in found.items():
        last, whole = (float(np.median(seconds)) for seconds in rounds)
        ratio = "1" if name == "ours" else quartiles(rounds.whole / found["ours"].whole)
        cells = [f"{last:.3f} s", f"{hop + last:.2f} s", f"{whole / hop:.3f}", ratio]
        rows.append(table_row([model, name, *cells]))
    return rows


def main(argv: list[str]) -> None:
    """Measures each size, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sizes", choices=list(SIZES), nargs="+", default=["tiny224", "base384"])
    parser.add_argument("--hop", type=float, default=1.0, help="in seconds")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--tiny", action="store_true", help="a small model, to try the script")
    parser.add_argument("--append", type=Path, metavar="FILE", help="add the table to this file")
    arguments = parser.parse_args(argv)
    device = describe(None, tiny=True)
    print(f"{device.name}\n")
    lines = list(HEADER)
    print(*lines, sep="\n", flush=True)
    for size in arguments.sizes:
        rest = (arguments.tiny, arguments.hop, arguments.rounds, device.kind)
        rows = table_rows("small" if arguments.tiny else size, measure(size, *rest), arguments.hop)
        print(*rows, sep="\n", flush=True)
        lines += rows
    if arguments.append:
        title = f"Streaming: a window every {arguments.hop:g} s"
        command = ["python", "benchmarks/streaming.py", *argv]
        append_results(arguments.append, title, command, device.name, lines)


if __name__ == "__main__":
    main(sys.argv[1:])
