"""Published figures of accelerators."""

from typing import NamedTuple


class Chip(NamedTuple):
    """Published figures of an accelerator.

    Attributes:
        platform: JAX's name of it.
        memory: GB.
        peak: bfloat16 FLOP/s.
        bandwidth: of the memory, bytes/s.
        clock: Hz; those of v5p and v6e are inferred from their peaks.
        cores: that share a chip's work.
        matmul_clocks: between two instructions to a matrix unit.
    """

    platform: str
    memory: float
    peak: float
    bandwidth: float
    clock: float = 0.0
    cores: int = 1
    matmul_clocks: int = 0


CHIPS = {
    "v4": Chip("tpu", 32, 275e12, 1228e9, 1.05e9, 2, 4),
    "v5e": Chip("tpu", 16, 197e12, 819e9, 1.5e9, 1, 4),
    "v5p": Chip("tpu", 95, 459e12, 2765e9, 1.75e9, 2, 4),
    "v6e": Chip("tpu", 32, 918e12, 1640e9, 1.75e9),
    "h100": Chip("cuda", 80, 989e12, 3350e9),
}
