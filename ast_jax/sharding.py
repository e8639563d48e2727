"""Maps a function written for one device over all devices of one or several processes.

`jit(shard_map(…))` and `jax.pmap` mean the same: every device runs the function on its share of
the batch with its own copy of the parameters, and collectives name the axis 'data'.
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

# Options of XLA's TPU compiler that have dense products, norms and copies overlap the all-reduces
# of gradients. By default these are synchronous, and merged into few, which end the backward pass.
TPU_COMPILER_OPTIONS = {
    "xla_enable_async_all_reduce": True,
    "xla_tpu_enable_async_collective_fusion_fuse_all_reduce": True,
    "xla_tpu_enable_async_collective_fusion_fuse_kloop_fusions": True,
    "xla_jf_crs_combiner_threshold_in_bytes": 10**6,  # a layer's kernels are reduced one by one
}

REPLICATED = P()
SPLIT = P(AXIS)  # the leading axis is split over the devices


class DataParallel:
    """A row of devices with replicated parameters and split batches.

    With several processes these are the devices of all, in the order of the processes.

    Args:
        how: 'shard_map' or 'pmap'. On TPUs only 'shard_map' overlaps the gradient exchange with
            the backward pass, as `jax.pmap` takes no compiler options.
        devices: all by default.
    """

    def __init__(self, how: str = "shard_map", devices: Sequence[jax.Device] | None = None):
        self.how = how
        self.devices = list(devices or jax.devices())
        self.mesh = Mesh(self.devices, (AXIS,), axis_types=(AxisType.Auto,))

    @property
    def overlaps_exchange(self) -> bool:
        """Whether programs exchange arrays while they compute: by shard_map on several TPUs."""
        several_tpus = self.devices[0].platform == "tpu" and len(self.devices) > 1
        return several_tpus and self.how == "shard_map"

    def map(
        self,
        function: Callable,
        arguments: tuple[Any, ...],
        result: Any = REPLICATED,
        donate: tuple[int, ...] = (),
    ) -> Callable:
        """Returns the compiled function over all devices.

        Args:
            function: written for one device; collectives name the axis 'data'.
            arguments: for each argument `REPLICATED`, `SPLIT` or a tree of them; 'shard_map'
                takes any `PartitionSpec`.
            result: the same for the result.
            donate: indices of arguments whose buffers are donated.
        """
        if self.how == "shard_map":
            # With check_vma JAX sums gradients of replicated parameters over the devices, and
            # the step's own pmean would then average gradients that are N times too large.
            mapped = jax.shard_map(
                function, mesh=self.mesh, in_specs=arguments, out_specs=result, check_vma=False
            )
            options = TPU_COMPILER_OPTIONS if self.overlaps_exchange else None
            return jax.jit(mapped, donate_argnums=donate, compiler_options=options)
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

    def check_batch(self, batch_size: int, microbatches: int = 1) -> None:
        """Raises `InputError` unless the devices and `microbatches` divide the batch."""
        if batch_size % (len(self.devices) * microbatches):
            each = f" and {microbatches} microbatches" if microbatches > 1 else ""
            raise InputError(
                f"batch_size {batch_size} does not split over {len(self.devices)} devices{each}; "
                f"choose a multiple of {len(self.devices) * microbatches}"
            )

    def shard_batch(self, batch: Any) -> Any:
        """Puts this process's share of a batch on its devices, asynchronously.

        With 'pmap' the mapped function does it and the batch is returned as it is.
        """
        if self.how == "pmap":
            return batch
        sharding = NamedSharding(self.mesh, SPLIT)
        if jax.process_count() == 1:
            return jax.device_put(batch, sharding)
        return jax.make_array_from_process_local_data(sharding, batch)

    def device_put(self, tree: Any, specs: Any = REPLICATED) -> Any:
        """Puts arrays that every process has on the devices, sharded by `specs`."""
        shardings = self.shardings(tree, specs)
        if jax.process_count() == 1:
            return jax.device_put(tree, shardings)

        def put(array: Any, sharding: NamedSharding) -> jax.Array:
            host = np.asarray(array)
            return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

        return jax.tree.map(put, tree, shardings)

    def shardings(self, tree: Any, specs: Any) -> Any:
        """Returns the sharding of each array; `specs` is one for all of them, or a tree."""
        if isinstance(specs, P):
            specs = jax.tree.map(lambda _: specs, tree)
        return jax.tree.map(lambda spec: NamedSharding(self.mesh, spec), specs)

    def to_host(self, tree: Any) -> Any:
        """Returns whole arrays, on the first process as NumPy's. Collective."""
        replicated = NamedSharding(self.mesh, REPLICATED)

        def whole(array: jax.Array) -> jax.Array:
            if array.is_fully_addressable or array.is_fully_replicated:
                return array
            return jax.jit(lambda x: x, out_shardings=replicated)(array)

        arrays = jax.tree.map(whole, tree)
        return arrays if jax.process_index() else jax.device_get(arrays)

    def any_process(self, flag: bool) -> bool:
        """Returns whether any process set the flag. Collective: every process must call it."""
        if jax.process_count() == 1:
            return flag
        return bool(multihost_utils.process_allgather(np.array(flag)).any())

    def gather(self, rows: jax.Array) -> np.ndarray:
        """Returns all rows of a `SPLIT` result on every process. Collective."""
        if jax.process_count() == 1:
            return np.asarray(rows)
        return np.asarray(multihost_utils.process_allgather(rows, tiled=True))


def _axes(specs: Any) -> Any:
    def axis(spec: P) -> int | None:
        return 0 if spec == SPLIT else None

    return jax.tree.map(axis, specs, is_leaf=lambda spec: isinstance(spec, P))
