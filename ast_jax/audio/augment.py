"""Augmentation of log-mels as pure functions of a key and a batch."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key


def spec_augment(
    key: Key[Array, ""],
    input_values: Float[Array, "batch frames mel_bins"],
    *,
    frequency_mask: int,
    time_mask: int,
    fill: float,
    num_frames: Int[Array, " batch"] | None = None,
) -> Float[Array, "batch frames mel_bins"]:
    """Masks one band of mel bins and one of frames in each clip (SpecAugment).

    Follows torchaudio's FrequencyMasking and TimeMasking, which the original uses
    (dataloader.py): a mask is ⌊U·size⌋ wide, U uniform in [0, 1), and starts at
    ⌊U'·(total - U·size)⌋.

    Args:
        key: the key of the batch, split for clips, widths and starts.
        input_values: normalized log-mels.
        frequency_mask: the maximum width of a mask, in mel bins; 0 for none.
        time_mask: the maximum width of a mask, in frames; 0 for none.
        fill: the masked value. The original masks with 0 before normalization, which is
            (0 - mean)/(2·std) here.
        num_frames: of each clip before padding, within which frames are masked; None for all.
    """
    batch, frames, mel_bins = input_values.shape
    frequency_key, time_key = jax.random.split(key)
    masked = _mask(frequency_key, batch, mel_bins, frequency_mask)[:, None, :]
    masked |= _mask(time_key, batch, frames, time_mask, num_frames)[:, :, None]
    return jnp.where(masked, jnp.asarray(fill, input_values.dtype), input_values)


def noise(
    key: Key[Array, ""], input_values: Float[Array, "batch frames mel_bins"]
) -> Float[Array, "batch frames mel_bins"]:
    """Adds noise to each clip, uniform in [0, u) with u uniform in [0, 0.1) per clip.

    The original does this for Speech Commands (dataloader.py), after normalization and before
    `roll`.

    Args:
        key: the key of the batch, split for the noise and its loudness.
        input_values: normalized log-mels; the result has their dtype.
    """
    value_key, loudness_key = jax.random.split(key)
    values = jax.random.uniform(value_key, input_values.shape)
    loudness = jax.random.uniform(loudness_key, (len(input_values), 1, 1)) / 10
    return input_values + (values * loudness).astype(input_values.dtype)


def roll(
    key: Key[Array, ""],
    input_values: Float[Array, "batch frames mel_bins"],
    max_shift: int,
    num_frames: Int[Array, " batch"] | None = None,
) -> Float[Array, "batch frames mel_bins"]:
    """Shifts each clip circularly in time, by an integer in [-max_shift, max_shift - 1].

    The original does this for Speech Commands (dataloader.py).

    Args:
        key: the key of the batch.
        input_values: normalized log-mels.
        max_shift: in frames; 0 for no shift.
        num_frames: of each clip before padding, which stays where it is; None for all.
    """
    if not max_shift:
        return input_values
    shifts = jax.random.randint(key, (len(input_values),), -max_shift, max_shift)
    if num_frames is None:
        return jax.vmap(lambda clip, shift: jnp.roll(clip, shift, axis=0))(input_values, shifts)
    frame, end = jnp.arange(input_values.shape[1]), num_frames[:, None]
    sources = jnp.where(frame < end, (frame - shifts[:, None]) % end, frame)
    return jnp.take_along_axis(input_values, sources[:, :, None], axis=1)


def restore_padding(
    augmented: Float[Array, "batch frames mel_bins"],
    input_values: Float[Array, "batch frames mel_bins"],
    num_frames: Int[Array, " batch"],
) -> Float[Array, "batch frames mel_bins"]:
    """Returns augmented clips with the padding that they had before."""
    real = jnp.arange(input_values.shape[1]) < num_frames[:, None]
    return jnp.where(real[:, :, None], augmented, input_values)


def _mask(
    key: Key[Array, ""],
    batch: int,
    total: int,
    size: int,
    lengths: Int[Array, " batch"] | None = None,
) -> Bool[Array, "batch total"]:
    """Returns a mask that is true within one random interval per clip, within its length if any."""
    width_key, start_key = jax.random.split(key)
    end = total if lengths is None else lengths[:, None]
    longest = min(size, total) if lengths is None else jnp.minimum(size, lengths[:, None])
    width = jax.random.uniform(width_key, (batch, 1)) * longest
    start = jnp.floor(jax.random.uniform(start_key, (batch, 1)) * (end - width))
    position = jnp.arange(total)
    return (position >= start) & (position < start + jnp.floor(width))
