"""Augmentation of log-mels as pure functions of a key and a batch."""

import jax
import jax.numpy as jnp


def spec_augment(
    key: jax.Array,
    input_values: jax.Array,
    *,
    frequency_mask: int,
    time_mask: int,
    fill: float,
) -> jax.Array:
    """Masks one band of mel bins and one of frames in each clip (SpecAugment).

    As torchaudio's FrequencyMasking and TimeMasking, which the original uses (dataloader.py):
    a mask is ⌊U·size⌋ wide, U uniform in [0, 1), and starts at ⌊U'·(total - U·size)⌋.

    Args:
        key: one key for the batch; clips, width and start draw from keys of their own.
        input_values: (batch, frames, mel_bins).
        frequency_mask: the widest mask, in mel bins; 0 for none.
        time_mask: the widest mask, in frames; 0 for none.
        fill: the masked value. The original's is 0 before normalisation, hence
            (0 - mean)/(2·std) here.
    """
    batch, frames, mel_bins = input_values.shape
    frequency_key, time_key = jax.random.split(key)
    masked = _mask(frequency_key, batch, mel_bins, frequency_mask)[:, None, :]
    masked |= _mask(time_key, batch, frames, time_mask)[:, :, None]
    return jnp.where(masked, jnp.asarray(fill, input_values.dtype), input_values)


def noise(key: jax.Array, input_values: jax.Array) -> jax.Array:
    """Adds noise to each clip, uniform in [0, u) with u uniform in [0, 0.1) for the clip.

    As the original does for Speech Commands (dataloader.py), after normalisation and before
    `roll`.

    Args:
        key: one key for the batch; clips, their values and their loudness draw from keys of
            their own.
        input_values: (batch, frames, mel_bins), of whose type the result is.
    """
    value_key, loudness_key = jax.random.split(key)
    values = jax.random.uniform(value_key, input_values.shape)
    loudness = jax.random.uniform(loudness_key, (len(input_values), 1, 1)) / 10
    return input_values + (values * loudness).astype(input_values.dtype)


def roll(key: jax.Array, input_values: jax.Array, max_shift: int) -> jax.Array:
    """Shifts each clip in time, what leaves at one end coming in at the other.

    As the original does for Speech Commands (dataloader.py): by an integer in
    [-max_shift, max_shift - 1], uniformly.

    Args:
        key: one key for the batch.
        input_values: (batch, frames, mel_bins).
        max_shift: in frames; 0 for none.
    """
    if not max_shift:
        return input_values
    shifts = jax.random.randint(key, (len(input_values),), -max_shift, max_shift)
    return jax.vmap(lambda clip, shift: jnp.roll(clip, shift, axis=0))(input_values, shifts)


def _mask(key: jax.Array, batch: int, total: int, size: int) -> jax.Array:
    """(batch, total) bools, true within a random interval."""
    width_key, start_key = jax.random.split(key)
    width = jax.random.uniform(width_key, (batch, 1)) * min(size, total)
    start = jnp.floor(jax.random.uniform(start_key, (batch, 1)) * (total - width))
    position = jnp.arange(total)
    return (position >= start) & (position < start + jnp.floor(width))
