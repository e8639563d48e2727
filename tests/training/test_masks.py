"""Runs and steps on clips of different lengths, with padding masked."""

import jax
import numpy as np
import pytest

from ast_jax.audio.pcm import to_float, to_int16
from ast_jax.checkpoint.format import load_checkpoint
from ast_jax.config import AugmentConfig, FrontendConfig
from ast_jax.data.clips import Clips, DataSet
from ast_jax.errors import InputError
from ast_jax.models.ast import init_params
from ast_jax.sharding import DataParallel
from ast_jax.training import loop
from ast_jax.training.loop import fit
from ast_jax.training.step import make_augment, make_patchout
from tests import steps
from tests.small_run import MODEL, history_of, small

CONFIG = MODEL.replace(num_hidden_layers=1, num_labels=5)
EVERYTHING = AugmentConfig(
    frequency_mask=8, time_mask=16, noise=True, roll=10, patchout_frequency=1, patchout_time=1
)


def waveforms(frames):
    rng = np.random.default_rng(0)
    return [
        to_int16(rng.uniform(-0.5, 0.5, 400 + 160 * (n - 1)).astype(np.float32)) for n in frames
    ]


def loss_and_gradients(spec, batch, devices=1):
    parallel = DataParallel(devices=jax.devices()[:devices])
    return steps.map_loss_and_gradients(parallel, spec)(init_params(CONFIG), batch)


def assert_close(found, expected):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, expected
    )


def test_shorter_inputs_from_host_or_device_give_the_same_loss_and_gradients():
    spec = steps.make_spec(CONFIG)
    frames = np.array([10, 33, 48], np.int32)
    sounds = waveforms(frames)
    rest = {"targets": np.eye(5, dtype=np.float32)[:3], "num_frames": frames}
    inputs = spec.extractor([to_float(x) for x in sounds], 16000)
    samples = 400 + 47 * 160
    device = {
        "waveforms": np.stack([np.pad(x, (0, samples - len(x))) for x in sounds]),
        "lengths": np.array([len(x) for x in sounds], np.int32),
    }
    expected = loss_and_gradients(spec, {"input_values": inputs} | rest)
    assert_close(loss_and_gradients(spec, {"input_values": inputs[:, :48]} | rest), expected)
    assert_close(loss_and_gradients(spec, device | rest), expected)
    garbage = np.array(inputs)
    garbage[0, 16:] = garbage[1, 48:] = 9  # patches without a frame of the clip
    assert_close(loss_and_gradients(spec, {"input_values": garbage} | rest), expected)


def test_augmentation_leaves_padding_alone_on_any_number_of_devices():
    spec = steps.make_spec(CONFIG)
    spec = spec._replace(
        augment=make_augment(EVERYTHING, spec.extractor), patchout=make_patchout(EVERYTHING, CONFIG)
    )
    frames = np.tile(np.array([10, 33, 50, 64], np.int32), 2)
    inputs = spec.extractor([to_float(x) for x in waveforms(frames)], 16000)
    batch = {
        "input_values": inputs,
        "targets": np.eye(5, dtype=np.float32)[np.arange(8) % 5],
        "num_frames": frames,
    }
    expected = loss_and_gradients(spec, batch)
    assert_close(loss_and_gradients(spec, batch, devices=2), expected)
    assert_close(loss_and_gradients(spec._replace(grad_accum_steps=2), batch), expected)


def of_mixed_lengths():
    """Returns clips of 10 to 80 frames, of two classes."""
    rng = np.random.default_rng(1)
    sounds = waveforms(rng.integers(10, 80, 40))
    targets = np.eye(2, dtype=np.float32)[np.arange(40) % 2]
    names = [f"{i}.wav" for i in range(40)]
    train, held_out = slice(0, 32), slice(32, 40)
    return DataSet(["a", "b"], *(Clips(sounds[s], targets[s], names[s]) for s in (train, held_out)))


def bucketed(workdir, on_device=False):
    augment = AugmentConfig(frequency_mask=8, time_mask=16, roll=10, mixup=0.3, patchout_time=1)
    return small(
        workdir,
        model=MODEL.replace(num_hidden_layers=1, mask_padding=True),
        frontend=FrontendConfig(on_device=on_device),
        augment=augment,
        length_buckets=2,
        num_epochs=2,
        batch_size=8,
    )


@pytest.mark.slow
def test_a_stopped_run_with_length_buckets_resumes_exactly(
    tmp_path, monkeypatch, no_plots, share_functions, capsys
):
    options = {"data": of_mixed_lengths(), "devices": jax.devices()[:1]}
    whole = fit(bucketed(tmp_path / "whole"), **options)
    printed = capsys.readouterr().out
    for frames in (32, 64):
        assert f"compiling the training step for clips of {frames} frames…" in printed
    with monkeypatch.context() as patch:
        asked = iter(range(1, 4))
        patch.setattr(loop, "is_stop_requested", lambda *arguments: next(asked) == 3)
        with pytest.raises(KeyboardInterrupt):
            fit(bucketed(tmp_path / "stopped"), **options)
    resumed = fit(bucketed(tmp_path / "stopped"), **options)
    assert resumed.scores == whole.scores
    assert history_of(tmp_path / "stopped") == history_of(tmp_path / "whole")
    config, extractor, params = load_checkpoint(whole.checkpoint)
    jax.tree.map(np.testing.assert_array_equal, load_checkpoint(resumed.checkpoint).params, params)
    assert config.mask_padding
    assert extractor.return_attention_mask


def test_length_buckets_need_masks(tmp_path):
    config = small(tmp_path, length_buckets=2)
    with pytest.raises(InputError, match="length_buckets is 2 and model"):
        config.validate()
    config = bucketed(tmp_path)
    config.length_buckets = 5
    with pytest.raises(InputError, match="must be at most 4, the columns of patches"):
        config.validate()
