import jax
import numpy as np

from ast_jax.audio.feature_extractor import ASTFeatureExtractor
from ast_jax.audio.pcm import to_float, to_int16
from ast_jax.models.ast import graphdef, init_params
from ast_jax.models.config import ASTConfig
from ast_jax.training import step
from ast_jax.training.parallel import DataParallel

CONFIG = ASTConfig(
    hidden_size=32,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=64,
    frequency_stride=16,
    time_stride=16,
    max_length=64,
    num_mel_bins=32,
    num_labels=5,
)


def test_the_device_frontend_gives_the_loss_and_gradients_of_the_hosts():
    rng = np.random.default_rng(0)
    extractor = ASTFeatureExtractor(max_length=64, num_mel_bins=32, mean=-6.0, std=5.0)
    clips = [to_int16(rng.uniform(-0.5, 0.5, n).astype(np.float32)) for n in (3000, 9000, 16000)]
    samples = 400 + 63 * 160
    device = {
        "waveforms": np.stack([np.pad(x, (0, samples))[:samples] for x in clips]),
        "lengths": np.array([min(len(x), samples) for x in clips], np.int32),
    }
    host = {"input_values": extractor([to_float(x) for x in clips], 16000)}
    targets = np.eye(5, dtype=np.float32)[:3]
    parallel = DataParallel(devices=jax.devices()[:1])
    params = init_params(CONFIG)

    def loss_and_gradients(batch, inputs):
        gradient_fn = step.make_gradient_fn(
            graphdef(CONFIG), step.cross_entropy, lambda key, x: x, inputs
        )
        mapped = parallel.map(gradient_fn, split=(False, True, False))
        return mapped(params, batch | {"targets": targets}, jax.random.key(0))

    expected = loss_and_gradients(host, step.host_inputs)
    found = loss_and_gradients(device, step.make_device_inputs(extractor))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, expected)
