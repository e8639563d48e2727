import numpy as np
import pytest
from matplotlib import image

from ast_jax.config import AugmentConfig, FrontendConfig, SyntheticData, TrainConfig
from ast_jax.errors import InputError
from ast_jax.models.config import ASTConfig
from ast_jax.training.plot_batch import describe_target, plot_batch


def config(**changes):
    fields = {
        "workdir": "unused",
        "model": ASTConfig(max_length=64, num_mel_bins=32),
        "data": SyntheticData(train_clips=2, evaluation_clips=1),
        "augment": AugmentConfig(frequency_mask=16, time_mask=32, mixup=1.0),
        "batch_size": 4,
    }
    return TrainConfig(**fields | changes)


def test_a_batch_is_drawn_with_all_its_clips(tmp_path):
    plot_batch(config(), tmp_path / "a.png")
    picture = image.imread(tmp_path / "a.png")
    assert picture.shape[0] > 800
    assert picture.shape[1] > 1200
    left, right = picture[:, :600, :3], picture[:, 600:1200, :3]
    assert left.std() > 0.1
    assert right.std() > 0.1


def test_host_and_device_frontends_draw_the_same_picture(tmp_path):
    plot_batch(config(), tmp_path / "host.png")
    plot_batch(config(frontend=FrontendConfig(on_device=True)), tmp_path / "device.png")
    host, device = (image.imread(tmp_path / f"{name}.png") for name in ("host", "device"))
    assert np.abs(host - device).mean() < 2e-3


def test_another_step_draws_another_picture(tmp_path):
    for step in (0, 1):
        plot_batch(config(), tmp_path / f"{step}.png", step)
    first, second = (image.imread(tmp_path / f"{step}.png") for step in (0, 1))
    assert np.abs(first - second).mean() > 0.01


def test_titles_have_mixed_labels_with_their_weights():
    labels = ["dog", "rain", "owl", "sea", "cat", "hen"]
    assert describe_target(np.array([0, 1, 0, 0, 0, 0.0]), labels) == "rain"
    assert describe_target(np.array([0.38, 0, 0.62, 0, 0, 0]), labels) == "0.62 owl, 0.38 dog"
    assert describe_target(np.array([1, 1, 0, 0, 0, 0.0]), labels) == "dog, rain"
    assert describe_target(np.ones(6), labels) == "dog, rain, owl, sea and 2 more"
    assert describe_target(np.zeros(6), labels) == ""


def test_too_few_clips_for_a_batch_are_refused(tmp_path):
    with pytest.raises(InputError, match="batch_size is 50 and there are 20 training clips"):
        plot_batch(config(batch_size=50), tmp_path / "a.png")
    assert not list(tmp_path.iterdir())
