"""Mapping a function written for one device over all of them, in one process or several.

`jax.pmap` and `jit(shard_map(…))` mean the same: every device runs the function on its slice
of the batch with its own copy of the parameters, and collectives name the axis 'data'.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from ast_jax.errors import InputError

AXIS = "data"  # the name of the mesh axis that batches are split over

REPLICATED = P()  # the same on every device
SPLIT = P(AXIS)  # the leading axis is split over the devices


class DataParallel:
    """Devices in a row, parameters replicated, batches split over them.

    With several processes the devices are those of all, in the processes' order.

    Args:
        how: 'shard_map' or 'pmap'.
        devices: those to use; all by default.
    """

    def __init__(self, how: str = "shard_map", devices: Sequence[jax.Device] | None = None):
        self.how = how
        self.devices = list(devices or jax.devices())
        self.mesh = Mesh(self.devices, (AXIS,), axis_types=(AxisType.Auto,))

    def map(
        self,
        function: Callable,
        arguments: tuple[Any, ...],
        result: Any = REPLICATED,
        donate: tuple[int, ...] = (),
    ) -> Callable:
        """The function over all devices.

        Args:
            function: written for one device; collectives name the axis 'data'.
            arguments: for each, `REPLICATED` or `SPLIT`, or a tree of them; for 'shard_map' of
                any `PartitionSpec`.
            result: the same of what it returns.
            donate: arguments whose buffers are given up for the result.
        """
        if self.how == "shard_map":
            # check_vma=False: with it JAX sums gradients of replicated parameters over the
            # devices by itself, and the step's own pmean would average N-fold gradients.
            mapped = jax.shard_map(
                function, mesh=self.mesh, in_specs=arguments, out_specs=result, check_vma=False
            )
            return jax.jit(mapped, donate_argnums=donate)
        mapped = jax.pmap(
            function,
            axis_name=AXIS,
            in_axes=_axes(arguments),
            out_axes=_axes(result),
            donate_argnums=donate,
            devices=self.devices,
        )
        local = sum(device.process_index == jax.process_index() for device in self.devices)

        def with_device_axis(*args: Any) -> Any:
            split = [
                jax.tree.map(lambda x: x.reshape(local, -1, *x.shape[1:]), arg)
                if spec == SPLIT
                else arg
                for arg, spec in zip(args, arguments, strict=True)
            ]
            returned = mapped(*split)
            if result == SPLIT:
                returned = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), returned)
            return returned

        return with_device_axis

    def check_batch(self, batch_size: int, parts: int = 1) -> None:
        """Raises `InputError` for a batch that does not split evenly over the devices.

        Each device takes its slice in `parts` of equal size.
        """
        if batch_size % (len(self.devices) * parts):
            each = f" and {parts} accumulated parts" if parts > 1 else ""
            raise InputError(
                f"batch_size {batch_size} does not split over {len(self.devices)} devices{each}; "
                f"choose a multiple of {len(self.devices) * parts}"
            )

    def shard_batch(self, batch: Any) -> Any:
        """This process's part of a batch onto its devices, without waiting for it."""
        if self.how == "pmap":
            return batch
        split = NamedSharding(self.mesh, SPLIT)
        if jax.process_count() == 1:
            return jax.device_put(batch, split)
        return jax.make_array_from_process_local_data(split, batch)

    def device_put(self, tree: Any, specs: Any = REPLICATED) -> Any:
        """Arrays that every process has, onto the devices as `specs` say."""
        if isinstance(specs, P):
            specs = jax.tree.map(lambda _: specs, tree)
        shardings = jax.tree.map(lambda spec: NamedSharding(self.mesh, spec), specs)
        if jax.process_count() == 1:
            return jax.device_put(tree, shardings)

        def place(array: Any, sharding: NamedSharding) -> jax.Array:
            whole = np.asarray(array)
            return jax.make_array_from_callback(whole.shape, sharding, lambda part: whole[part])

        return jax.tree.map(place, tree, shardings)

    def to_global(self, tree: Any) -> Any:
        """Replicated arrays as those of all processes, which `pmap` returns as this one's."""
        alone = jax.process_count() == 1 or self.how == "shard_map"
        return tree if alone else self.device_put(tree)

    def any_process(self, flag: bool) -> bool:
        """Whether a process has the flag up; each must ask at the same point of its work."""
        if jax.process_count() == 1:
            return flag
        return bool(multihost_utils.process_allgather(np.array(flag)).any())

    def gather(self, rows: jax.Array) -> np.ndarray:
        """What a function with a `SPLIT` result returned: all rows, on every process."""
        if jax.process_count() == 1:
            return np.asarray(rows)
        return np.asarray(multihost_utils.process_allgather(rows, tiled=True))


def _axes(specs: Any) -> Any:
    def axis(spec: P) -> int | None:
        return 0 if spec == SPLIT else None

    return jax.tree.map(axis, specs, is_leaf=lambda spec: isinstance(spec, P))
