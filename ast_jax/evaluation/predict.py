"""The logits of a model on batches of clips, over all devices."""

from collections.abc import Callable, Iterable

import jax
import numpy as np
from flax import nnx

from ast_jax.audio.fbank_jax import batch_input_values
from ast_jax.audio.feature_extractor import ASTFeatureExtractor
from ast_jax.data.batches import Batch
from ast_jax.models.ast import Params
from ast_jax.sharding import DataParallel


def make_predict(
    graphdef: nnx.GraphDef, extractor: ASTFeatureExtractor
) -> Callable[[Params, dict[str, jax.Array]], jax.Array]:
    """Returns the function (params, a device's batch) → float32 logits (batch, classes).

    Padding is masked if the batch has `num_frames`.
    """

    def predict(params: Params, batch: dict[str, jax.Array]) -> jax.Array:
        inputs, num_frames = batch_input_values(batch, extractor), batch.get("num_frames")
        return nnx.merge(graphdef, params)(inputs, num_frames=num_frames)

    return predict


def predict_batches(
    predict: Callable,
    parallel: DataParallel,
    params: Params,
    batches: Iterable[Batch],
    clips: int,
) -> np.ndarray:
    """Returns the logits (clips, classes) of batches, without the rows that pad the last one."""
    logits = []
    for batch in batches:
        inputs = {name: batch[name] for name in batch.keys() - {"targets", "mask"}}
        logits.append(parallel.gather(predict(params, parallel.shard_batch(inputs))))
    return np.concatenate(logits)[:clips]
