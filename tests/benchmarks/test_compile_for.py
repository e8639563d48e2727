"""Compiles a small training step for accelerators by `benchmarks/compile_for.py`.

Skipped where their compilers are not installed: the extra `tpu`, or jax-cuda12-plugin.
"""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "compile_for.py"
SMALL = ("--size", "tiny224", "--layers", "2", "--clips", "2", "--ops", "1000")
TOKENS = 1214


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
@pytest.mark.parametrize("target", ["v5e:1x1", "v5e:2x2"])
def test_a_step_for_tpus_uses_the_kernel_and_little_memory(run_python, target):
    printed = run_python(SCRIPT, target, *SMALL)
    tables = sections(printed)
    # The classifier's, and those of the last layer's two queries, whose weights' gradients are
    # float32.
    assert float32_products(tables) == 3 + 2
    # Of several chips all-reduces overlap products.
    overlapped = [row for row in tables["exchange"] if re.search(r"beside \d+ products", row[3])]
    assert bool(overlapped) == bool(tables["exchange"]) == (target == "v5e:2x2")
    kernels = [row[0].split(".")[0] for row in tables["largest ops"] if "attention_" in row[0]]
    assert sorted(kernels) == ["attention_backward", "attention_forward"]
    assert f"{TOKENS},{TOKENS}]" not in printed
    assert peak_memory(printed) < 0.2
    assert [row[0] for row in tables["group"]][-1] == "all"


@pytest.mark.skipif(not find_spec("jax_cuda12_plugin"), reason="needs jax-cuda12-plugin")
def test_a_step_for_gpus_calls_cudnn_once_a_direction(run_python):
    printed = run_python(SCRIPT, "h100:8", *SMALL)
    tables = sections(printed)
    # The classifier's; those of two queries are no calls of cuBLAS.
    assert float32_products(tables) == 3
    assert {row[0] for row in tables["exchange"]} == {"all-reduce"}
    calls = {row[0]: int(row[1]) for row in tables["library calls"]}
    attention = {name: number for name, number in calls.items() if "fmha" in name}
    assert attention == {"__cudnn$fmhaSoftmax": 1, "__cudnn$fmhaSoftmaxBackward": 1}
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
