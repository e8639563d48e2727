"""Runs with a caller's own parts equal those of the configuration that compute the same."""

import numpy as np
import optax
import pytest

import ast_jax
from ast_jax.config import AugmentConfig, FolderData, OptimizerConfig
from ast_jax.data.synthetic import make_synthetic
from ast_jax.errors import InputError
from ast_jax.training.loop import fit
from tests.small_run import small

ADAM = OptimizerConfig(learning_rate=1e-3, weight_decay=0, b1=0.9)


class Recorder(ast_jax.Callback):
    def __init__(self):
        self.steps, self.rows, self.results = [], [], []

    def on_step(self, step, metrics):
        self.steps.append((step, metrics))

    def on_evaluation(self, row):
        self.rows.append(row)

    def on_end(self, result):
        self.results.append(result)


class Misspelt(ast_jax.Callback):
    def on_steps(self, step, metrics):
        """Is never called."""


def config(workdir, **changes):
    return small(workdir, optimizer=ADAM, augment=AugmentConfig(), num_epochs=2, **changes)


def negative(logits, targets):
    return -logits[:, 3].mean()


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return fit(config(tmp_path_factory.mktemp("plain") / "run"))


def losses(result):
    return [[row["training_loss"], row["loss"]] for row in result.history]


def test_ones_own_parts_replace_the_configurations(plain, tmp_path, no_plots):
    def cross_entropy(logits, targets):
        return optax.softmax_cross_entropy(logits, targets).mean()

    clips = make_synthetic(2, 1, seed=0)
    splits = {
        name: [
            {"waveform": {"array": waveform, "sampling_rate": 16000}, "label": int(target.argmax())}
            for waveform, target in zip(side.waveforms, side.targets, strict=True)
        ]
        for name, side in (("train", clips.train), ("evaluation", clips.evaluation))
    }
    recorder = Recorder()
    masked = config(tmp_path / "run", label_smoothing=0.3, data=FolderData())
    masked.augment = AugmentConfig(frequency_mask=30, time_mask=60, noise=True)
    masked.optimizer = OptimizerConfig(learning_rate=1)
    result = fit(
        masked,
        data=splits | {"labels": clips.labels},
        loss=cross_entropy,
        augment=lambda key, clip: clip,
        optimizer=optax.adam(1e-3, b1=0.9),
        callbacks=[recorder],
    )
    np.testing.assert_allclose(losses(result), losses(plain), rtol=1e-5)
    assert result.scores == pytest.approx(plain.scores, rel=1e-4)
    assert [step for step, _ in recorder.steps] == [0, 1, 2, 3]
    first, second = (recorder.steps[i][1]["loss"] for i in (0, 1))
    assert result.history[0]["training_loss"] == pytest.approx((first + second) / 2)
    assert recorder.rows == result.history
    # The rate is inside the optimizer.
    assert recorder.steps[0][1]["learning_rate"] is None
    assert result.history[0]["learning_rate"] is None
    assert recorder.results == [result]
    assert ast_jax.load(result.checkpoint).labels == clips.labels


def test_a_loss_of_ones_own_is_minimized(tmp_path, no_plots):
    """The negative logit of class 3 makes every clip class 3."""
    result = fit(
        config(tmp_path / "run"),
        loss=negative,
        optimizer=optax.adam(1e-2),
    )
    assert result.history[-1]["loss"] < -1
    classifier = ast_jax.load(result.checkpoint)
    noise = np.random.default_rng(0).normal(0, 0.1, 16000).astype(np.float32)
    assert classifier(noise, sampling_rate=16000)[0]["label"] == classifier.labels[3]


def integer_loss(logits, targets):
    return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"loss": 3}, "loss is 3; give a function"),
        ({"augment": "x"}, "augment is 'x'; give a function"),
        ({"optimizer": optax.adam}, "give an optax.GradientTransformation"),
        ({"callbacks": [print]}, "give objects of ast_jax.Callback"),
        ({"data": [1]}, 'data has no "train"'),
        ({"callbacks": Recorder()}, "give a list of them"),
        ({"loss": lambda logits, targets: logits[:, 0]}, r"loss returns the shape \(2,\); return"),
        ({"callbacks": (c for c in [Recorder()])}, "callbacks is a generator; give a list"),
        ({"callbacks": None}, "callbacks is a NoneType; give a list"),
        ({"callbacks": [Misspelt()]}, r"on_steps is no hook .*; did you mean on_step\?"),
        ({"loss": lambda logits, targets: (logits.mean(), {})}, "loss returns a tuple; return one"),
        ({"loss": lambda logits, targets: None}, "loss returns a NoneType; return one array"),
        ({"augment": lambda key, clip: clip.astype(int)}, "augment returns int32; return floats"),
        (
            {"loss": integer_loss},
            r"loss fails: .*integer.*; it is given float32\[2, 10\]",
        ),
        ({"optimizer": optax.lbfgs()}, "optimizer fails: .*; give one whose update takes"),
        ({"augment": lambda key, clip: clip[:5]}, r"augment returns the shape \(5, 32\); return"),
    ],
)
def test_parts_of_a_wrong_type_are_refused(tmp_path, parts, message):
    with pytest.raises(InputError, match=message):
        fit(config(tmp_path / "run"), **parts)
    assert not (tmp_path / "run").exists()


def test_what_is_no_configuration_is_refused():
    with pytest.raises(InputError, match="config is 'demo'; give a TrainConfig, see `load_config`"):
        fit("demo")


def test_a_run_resumes_with_the_same_parts_only(plain, tmp_path):
    again = config(plain.checkpoint.parent)
    with pytest.raises(InputError, match=r"another loss \(None, not negative\) given to fit"):
        fit(again, loss=negative)
    with pytest.raises(InputError, match=r"another optimizer \(None, not TraceState"):
        fit(again, optimizer=optax.sgd(1e-3, momentum=0.9))
    assert fit(again).scores == plain.scores


def test_an_optimizer_of_ones_own_is_not_sharded(tmp_path):
    with pytest.raises(InputError, match="shard_optimizer shards the configured optimizer only"):
        fit(config(tmp_path / "run", shard_optimizer=True), optimizer=optax.sgd(1.0))
