"""Runs `benchmarks/scaling.py` on small inputs; the printed times are not checked."""

import math
import re
from pathlib import Path

import jax
import pytest

from ast_jax.models.ast import param_shapes
from ast_jax.models.config import ASTConfig

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "scaling.py"

HLO = """\
%sum (a: f32[], b: f32[]) -> f32[] {
  ROOT %c = f32[] add(%a, %b)
}

ENTRY %main {
  %a = (f32[2,3]{1,0}, /*index=1*/bf16[4]{0}) all-reduce(%x, %y), to_apply=%sum
  %b = f32[] all-reduce-start(%z), to_apply=%sum
  %c = f32[2,3]{1,0} get-tuple-element(%a), index=0
  %d = f32[5]{0} reduce-scatter(%w), dimensions={0}
  ROOT %e = pred[8,2]{1,0} all-gather(%v), dimensions={0}
}
"""


@pytest.fixture(scope="module")
def scaling(load_script):
    return load_script(SCRIPT)


def test_a_step_reduces_each_parameter_once_in_float32(scaling, run_python):
    printed = run_python(SCRIPT, "--tiny", "--devices", "4")
    setup, compiled, note, assumed, predicted = printed.strip().split("\n\n")
    assert "jaxlib" in setup
    shapes = param_shapes(ASTConfig(**scaling.TINY))
    numbers = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
    # 23 arrays and the loss.
    reduced = f"all-reduce: {4 * (numbers + 1):,} bytes of f32"
    # Four devices shard an axis of each array, except the head's bias, and add up the norm.
    not_sharded = f"all-reduce: {4 * (527 + 2):,} bytes of f32"
    sharded_bytes = f"{4 * (numbers - 527):,} bytes of f32"
    exchanged = (
        f"22 reduce-scatter: {sharded_bytes}; 3 {not_sharded}; 22 all-gather: {sharded_bytes}"
    )
    replicated, sharded = (row.strip("| ").split(" | ") for row in compiled.splitlines()[2:])
    assert replicated[:2] == ["4", "replicated"]
    assert replicated[-2] == f"24 {reduced}"
    assert re.fullmatch(rf"\d+ {reduced}", replicated[-1])
    assert sharded[:2] == ["4", "sharded"]
    assert sorted(sharded[-2].split("; ")) == sorted(exchanged.split("; "))
    merged = [re.sub(r"^\d+ ", "", each) for each in exchanged.split("; ")]
    assert sorted(re.sub(r"^\d+ ", "", each) for each in sharded[-1].split("; ")) == sorted(merged)
    assert float(sharded[-3].split()[0]) < float(replicated[-3].split()[0])
    assert note.startswith("Assumed, not measured: ")
    assert len(assumed.splitlines()) == 2 + len(scaling.MACHINES)
    assert len(predicted.splitlines()) == 2 + 3 * len(scaling.MACHINES)


def test_count_collectives_handles_tuples_and_scalars(scaling):
    assert scaling.count_collectives(HLO, devices=4) == {
        "all-reduce": (2, 24 + 8 + 4, {"f32", "bf16"}),
        "reduce-scatter": (1, 4 * 20, {"f32"}),
        "all-gather": (1, 16, {"pred"}),
    }


def test_count_collectives_multiplies_those_in_loops(scaling):
    loop = """\
%body.1 (p: f32[2]) -> f32[2] {
  ROOT %g = f32[4]{0} all-gather(%p), dimensions={0}
}

"""
    call = (
        "ROOT %k = f32[2] while(%t), condition=%sum, body=%body.1, backend_config="
        '{"known_trip_count":{"n":"11"}}'
    )
    found = scaling.count_collectives(loop + HLO.replace("ROOT %e", f"{call}\n  %e"), devices=4)
    assert found["all-gather"] == (1 + 11, 16 + 11 * 16, {"pred", "f32"})


def test_count_collectives_refuses_asynchronous_ones(scaling):
    with pytest.raises(SystemExit, match="asynchronous"):
        scaling.count_collectives(HLO.replace("all-gather(", "all-gather-start("), devices=4)


def test_exchange_seconds_of_rings_inside_and_between_groups(scaling):
    machine = scaling.Machine(
        "pairs", peak=1.0, group=2, axes=1, closed=1, fast=100.0, fast_hop=1.0, slow=10.0,
        slow_hop=3.0,
    )  # fmt: skip
    # Two chips: each sends 1,000 bytes at 100 bytes/s, over two hops of 1 s.
    assert scaling.exchange_seconds(machine, 2, 1000) == pytest.approx(10 + 2)
    # Eight: four groups also exchange halves, 2 x 3/4 x 500 at 10 bytes/s over six hops of 3 s.
    assert scaling.exchange_seconds(machine, 8, 1000) == pytest.approx(12 + 75 + 18)
    # A torus of 4 x 4 without wraparound links: half the bandwidth, 2 x (3 + 3) hops.
    torus = machine._replace(group=64, axes=2, closed=32)
    assert scaling.exchange_seconds(torus, 16, 1000) == pytest.approx(2 * 15 / 16 * 20 + 12)


def test_only_the_backward_pass_overlaps_with_the_exchange(scaling):
    assert scaling.efficiency(3.0, 1.0) == (3 / 4, 1)
    assert scaling.efficiency(3.0, 3.0) == (1 / 2, 3 / 4)
    assert scaling.efficiency(3.0, 0.0) == (1, 1)


@pytest.mark.parametrize("options", [["--devices", "1"], ["--clips", "0"], ["--utilization", "40"]])
def test_invalid_options_raise(scaling, options, capsys):
    with pytest.raises(SystemExit):
        scaling.parse(options)
    assert f"{options[0]}" in capsys.readouterr().err.splitlines()[-1]
