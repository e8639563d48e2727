"""Mapping a function written for one device over all of them.

`jax.pmap` and `jit(shard_map(…))` mean the same: every device runs the function on its slice
of the batch with its own copy of the parameters, and collectives name the axis 'data'.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from ast_jax.errors import InputError
from ast_jax.training.step import AXIS


class DataParallel:
    """Devices in a row, parameters replicated, batches split over them.

    Args:
        how: 'shard_map' or 'pmap'.
        devices: those to use; all by default.
    """

    def __init__(self, how: str = "shard_map", devices: Sequence[jax.Device] | None = None):
        self.how = how
        self.devices = list(devices or jax.devices())
        self.mesh = Mesh(self.devices, (AXIS,), axis_types=(AxisType.Auto,))
        self.replicated = NamedSharding(self.mesh, P())
        self.split = NamedSharding(self.mesh, P(AXIS))

    def map(
        self,
        function: Callable,
        *,
        split: tuple[bool, ...],
        split_result: bool = False,
        donate: tuple[int, ...] = (),
    ) -> Callable:
        """The function over all devices.

        Args:
            function: written for one device; collectives name the axis 'data'.
            split: for each argument, whether its leading axis is split over the devices; the
                others are the same on every device.
            split_result: whether the result has a batch axis; otherwise it is the same on
                every device.
            donate: arguments whose buffers are given up for the result.
        """
        if self.how == "shard_map":
            # check_vma=False: with it JAX sums gradients of replicated parameters over the
            # devices by itself, and the step's own pmean would average N-fold gradients.
            mapped = jax.shard_map(
                function,
                mesh=self.mesh,
                in_specs=tuple(P(AXIS) if is_split else P() for is_split in split),
                out_specs=P(AXIS) if split_result else P(),
                check_vma=False,
            )
            return jax.jit(mapped, donate_argnums=donate)
        mapped = jax.pmap(
            function,
            axis_name=AXIS,
            in_axes=tuple(0 if is_split else None for is_split in split),
            out_axes=0 if split_result else None,
            donate_argnums=donate,
            devices=self.devices,
        )

        def with_device_axis(*args: Any) -> Any:
            devices = len(self.devices)
            result = mapped(
                *(
                    jax.tree.map(lambda x: x.reshape(devices, -1, *x.shape[1:]), arg)
                    if is_split
                    else arg
                    for arg, is_split in zip(args, split, strict=True)
                )
            )
            if split_result:
                result = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), result)
            return result

        return with_device_axis

    def check_batch(self, batch_size: int) -> None:
        """Raises `InputError` for a batch that does not split evenly over the devices."""
        if batch_size % len(self.devices):
            raise InputError(
                f"batch_size {batch_size} does not split over {len(self.devices)} devices; "
                f"choose a multiple"
            )

    def put(self, batch: Any) -> Any:
        """A batch from the host onto the devices, each its slice, without waiting for it."""
        return jax.device_put(batch, self.split) if self.how == "shard_map" else batch

    def replicate(self, tree: Any) -> Any:
        """Arrays onto every device."""
        return jax.device_put(tree, self.replicated)
