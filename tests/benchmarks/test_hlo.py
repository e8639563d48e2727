"""Tests `benchmarks/hlo.py` on a program in the compiler's format, and on one compiled here."""

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "hlo.py"

# A loop of 11 turns over a fusion that adds one slice of a stack to an array in vector memory, and
# another array, with as many rows as the loop has turns, that is no stack.
TEXT = """
HloModule jit_step

%fused (p0: f32[11,8], p1: s32[], p2: f32[8], p3: f32[11,4]) -> f32[8] {
  %p0 = f32[11,8]{1,0:T(8,128)} parameter(0)
  %p1 = s32[] parameter(1)
  %p2 = f32[8]{0:T(256)S(1)} parameter(2)
  %p3 = f32[11,4]{1,0:T(8,128)} parameter(3)
  %slice = f32[1,8]{1,0} dynamic-slice(%p0, %p1), dynamic_slice_sizes={1,8}
  %flat = f32[8]{0} bitcast(%slice)
  ROOT %sum = f32[8]{0:T(256)S(1)} add(%flat, %p2)
}

%body (state: (s32[], f32[8], f32[11,8])) -> (s32[], f32[8], f32[11,8]) {
  %state = (s32[], f32[8]{0}, f32[11,8]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %x = f32[8]{0:T(256)S(1)} get-tuple-element(%state), index=1
  %stack = f32[11,8]{1,0:T(8,128)} get-tuple-element(%state), index=2
  %whole = f32[11,4]{1,0:T(8,128)} custom-call(), custom_call_target="AllocateBuffer"
  %added = f32[8]{0:T(256)S(1)} fusion(%stack, %i, %x, %whole), calls=%fused, METADATA
  ROOT %next = (s32[], f32[8]{0}, f32[11,8]{1,0}) tuple(%i, %added, %stack)
}

%condition (state: (s32[], f32[8], f32[11,8])) -> pred[] {
  %state.1 = (s32[], f32[8]{0}, f32[11,8]{1,0}) parameter(0)
  %bound = s32[] constant(11)
  %i.1 = s32[] get-tuple-element(%state.1), index=0
  ROOT %less = pred[] compare(%i.1, %bound), direction=LT
}

ENTRY %main (x: f32[8], stack: f32[11,8]) -> f32[8] {
  %x.1 = f32[8]{0} parameter(0)
  %stack.1 = f32[11,8]{1,0} parameter(1)
  %zero = s32[] constant(0)
  %first = (s32[], f32[8]{0}, f32[11,8]{1,0}) tuple(%zero, %x.1, %stack.1)
  %loop = (s32[], f32[8]{0}, f32[11,8]{1,0}) while(%first), condition=%condition, body=%body
  %y = f32[8]{0} get-tuple-element(%loop), index=1
  ROOT %reduced = f32[8]{0} all-reduce-start(%y), replica_groups={{0,1}}
}
""".replace(
    "METADATA", 'metadata={op_name="jit(step)/add"}, backend_config={"estimated_cycles":"100"}'
)


@pytest.fixture(scope="module")
def hlo(load_script):
    return load_script(SCRIPT)


def test_loops_multiply_what_they_contain(hlo):
    program = hlo.Program(TEXT)
    loop, reduce = program.executions()
    assert (loop.instruction.name, loop.times, loop.loops) == ("added", 11, ("loop",))
    assert loop.instruction.estimated_cycles == 100
    assert loop.instruction.op_name == "jit(step)/add"
    assert [part.opcode for part in program.fused(loop.instruction)][-1] == "add"
    # One slice of the stack, the other array, the index; nothing that is in vector memory.
    assert program.hbm_bytes(loop) == 8 * 4 + 11 * 4 * 4 + 4
    assert (reduce.times, reduce.loops, hlo.is_collective(reduce)) == (1, (), True)
    assert not hlo.is_collective(loop)
    assert hlo.type_bytes(reduce.instruction.result) == 32


def test_an_asynchronous_copy_moves_its_slice_once(hlo):
    text = """HloModule step
ENTRY %main (x: f32[64,8]) -> f32[2,8] {
  %x = f32[64,8]{1,0} parameter(0)
  %s = ((f32[64,8]{1,0}), f32[2,8]{1,0:S(1)}, s32[]{:S(2)}) slice-start(%x), slice={[0:2], [0:8]}
  %slice = f32[2,8]{1,0:S(1)} slice-done(%s)
  %c = (f32[2,8]{1,0}, f32[2,8]{1,0:S(1)}, u32[]{:S(2)}) copy-start(%slice)
  ROOT %copy = f32[2,8]{1,0} copy-done(%c)
}
"""
    program = hlo.Program(text)
    assert [program.hbm_bytes(each) for each in program.executions()] == [64, 0, 64, 0]


def test_a_program_compiled_here_is_read(hlo):
    def step(x, stack):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, stack)[0]

    shapes = [jax.ShapeDtypeStruct(shape, "float32") for shape in ((4, 8), (3, 8, 8))]
    program = hlo.Program(jax.jit(step).lower(*shapes).compile().as_text())
    products = [
        (each.times, program.operand_types(part))
        for each in program.executions()
        for part in program.fused(each.instruction)
        if part.opcode == "dot"
    ]
    assert products == [(3, ["f32[4,8]", "f32[8,8]"])]


def test_sizes_of_types(hlo):
    assert hlo.type_bytes("(bf16[12,2]{1,0:T(8,128)(2,1)}, pred[3], u4[4])") == 48 + 3 + 2
    assert hlo.type_bytes("f32[]") == 4


ASYNCHRONOUS = """
%start (p: f32[8]) -> (f32[8], u32[]) {
  %p = f32[8]{0} parameter(0)
  ROOT %sum = f32[8]{0} all-reduce(%p), to_apply=%add
}

%both (a: f32[8], b: f32[8]) -> f32[8] {
  %a = f32[8]{0} parameter(0)
  %b = f32[8]{0} parameter(1)
  ROOT %product = f32[8]{0} convolution(%a, %b), dim_labels=bf_io->bf
}

ENTRY %main (x: f32[8]) -> f32[8] {
  %x = f32[8]{0} parameter(0)
  %async-collective-start.1 = (f32[8]{0}, u32[]{:S(2)}) fusion(%x), kind=kCustom, calls=%start
  %fusion.2 = f32[8]{0} fusion(%x, %x), kind=kOutput, calls=%both
  %async-collective-done.1 = f32[8]{0} fusion(%fusion.2), kind=kCustom, calls=%start
  ROOT %all-reduce = f32[8]{0} all-reduce(%async-collective-done.1), to_apply=%add
}
"""


def test_an_asynchronous_exchange_on_tpus_is_fusions(hlo, load_script):
    program = hlo.Program(ASYNCHRONOUS)
    start, *following = program.executions()
    assert hlo.is_collective(start)
    assert [hlo.is_collective(each) for each in following] == [False, False, True]
    assert hlo.collective_end(start, following) == 1
    assert hlo.collective_end(following[-1], []) is None
    report = load_script(SCRIPT.parent / "compiled_report.py")
    assert report.collectives(program, [start, *following])[-2:] == [
        "| all-reduce | 0.0 | 1 | asynchronous, beside 1 products | outside loops |",
        "| all-reduce | 0.0 | 1 | synchronous | outside loops |",
    ]
