"""Compiles a small training step for accelerators by `benchmarks/compile_for.py`.

Skipped where their compilers are not installed: the extra `tpu`, or jax-cuda12-plugin.
"""

import re
from importlib.util import find_spec
from pathlib import Path
from unittest.mock import Mock

import jax
import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "compile_for.py"
SMALL = ("--size", "tiny224", "--clips", "2", "--ops", "1000")


def sections(printed):
    """Returns the rows of the printed tables by the first cell of their headers."""
    tables = {}
    for block in printed.split("\n\n"):
        rows = [line.strip("| ").split(" | ") for line in block.splitlines() if line[:1] == "|"]
        if rows:
            tables[rows[0][0]] = rows[2:]
    return tables


def peak_memory(printed):
    return float(re.search(r"peak memory: ([\d.]+) of", printed)[1])


def float32_products(tables):
    return sum(int(row[-1]) for row in tables["float32 products"])


@pytest.mark.skipif(not find_spec("libtpu"), reason="needs the extra tpu")
@pytest.mark.parametrize(
    ("target", "layers"),
    [("v5e:1x1", 2), ("v5e:2x2", 3)],  # the latter's first two in a loop
)
def test_a_step_for_tpus_uses_the_kernel_and_little_memory(run_python, target, layers):
    printed = run_python(SCRIPT, target, *SMALL, "--layers", str(layers))
    tables = sections(printed)
    # The classifier's, and those of the last layer's two queries, whose weights' gradients are
    # float32.
    assert float32_products(tables) == 3 + 2
    overlapped = [row for row in tables["exchange"] if re.search("beside [1-9]", row[3])]
    in_the_loop = [row for row in tables["exchange"] if row[4] == "in a loop"]
    several = target == "v5e:2x2"
    assert bool(overlapped) == bool(in_the_loop) == bool(tables["exchange"]) == several
    # Once in each layer but the last, which has two queries.
    kernels = {row[0].split(".")[0]: int(row[3]) for row in tables["largest ops"]}
    kernels = {name: times for name, times in kernels.items() if "attention_" in name}
    assert kernels == {"attention_forward": layers - 1, "attention_backward": layers - 1}
    # Of 1,214 tokens, or with padding 1,216, by as many: no scores in memory.
    assert not re.search(r"121[46],121[46]\]", printed)
    assert peak_memory(printed) < 0.2
    assert [row[0] for row in tables["group"]][-1] == "all"


@pytest.mark.skipif(not find_spec("jax_cuda12_plugin"), reason="needs jax-cuda12-plugin")
def test_a_step_for_gpus_calls_cudnn_once_a_direction(run_python):
    printed = run_python(SCRIPT, "h100:8", *SMALL, "--layers", "3")
    tables = sections(printed)
    # The classifier's; those of two queries are no calls of cuBLAS.
    assert float32_products(tables) == 3
    assert {row[0] for row in tables["exchange"]} == {"all-reduce"}
    calls = {row[0]: int(row[1]) for row in tables["library calls"]}
    attention = {name: number for name, number in calls.items() if "fmha" in name}
    # In the first two layers, which are a loop.
    assert attention == {"__cudnn$fmhaSoftmax": 2, "__cudnn$fmhaSoftmaxBackward": 2}
    assert peak_memory(printed) < 0.3


def test_a_target_that_does_not_exist_is_refused(load_script, capsys):
    compile_for = load_script(SCRIPT)
    for target in ("v5e", "v3:2x2", "h100:0", "v5e:2*2"):
        with pytest.raises(SystemExit):
            compile_for.parse([target])
        assert "is not one of v4, v5e, v5p, v6e, h100 with a topology" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["h100:12"], "give 1 to 8 GPUs, or nodes of 8"),
        (["h100:2x2"], "give 1 to 8 GPUs, or nodes of 8"),
        (["v5e:1x1", "--clips", "0"], "give --clips from 1"),
        (["v5e:1x1", "--clips", "1", "--largest"], "with --largest from 2"),
    ],
)
def test_a_number_that_cannot_be_compiled_for_is_refused(load_script, capsys, arguments, message):
    with pytest.raises(SystemExit):
        load_script(SCRIPT).parse(arguments)
    assert message in capsys.readouterr().err


def test_the_largest_batch_is_printed_and_appended(load_script, monkeypatch, tmp_path, capsys):
    compile_for = load_script(SCRIPT)
    arguments = ["h100:1", "--clips", "8", "--largest", "--append", f"{tmp_path / 'results.md'}"]
    replacements = {
        "make_devices": lambda *_: [Mock(jax.Device)],
        "compile_program": lambda config, parallel, program, clips: Mock(clips=clips),
        "peak_memory": lambda compiled: 2 + 0.5 * compiled.clips,
        "describe": lambda *_: ["| group |"],
        "versions": lambda packages: ", ".join(packages),
    }
    for name, function in replacements.items():
        monkeypatch.setattr(compile_for, name, function)
    monkeypatch.setattr("sys.argv", ["compile_for.py", *arguments])
    compile_for.main()
    largest = "largest batch: 156 clips a chip, 500 MB each (extrapolated)"
    assert largest in capsys.readouterr().out
    assert largest in (tmp_path / "results.md").read_text()
