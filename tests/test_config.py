import math
import re

import pytest

from ast_jax.config import DataConfig, TrainConfig, load_config
from ast_jax.errors import InputError

FILE = """
from ast_jax.config import TrainConfig

def get_config():
    return TrainConfig(workdir="runs/x", batch_size=7)
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(FILE)
    return path


def test_load_config_applies_changes(file):
    assert load_config(file) == TrainConfig(workdir="runs/x", batch_size=7)
    config = load_config(
        file,
        [
            "workdir=3",
            "batch_size=9",
            "optimizer.learning_rate=2e-5",
            "augment.mixup=1",
            "frontend.mean=-4.25",
            "frontend.on_device=True",
            "model.hidden_size=96",
            "data.dir=a=b c",
        ],
    )
    assert (config.workdir, config.batch_size, config.optimizer.learning_rate) == ("3", 9, 2e-5)
    assert (config.augment.mixup, config.frontend.mean) == (1.0, -4.25)
    assert isinstance(config.augment.mixup, float)
    assert config.frontend.on_device is True
    assert (config.model.hidden_size, config.data.dir) == (96, "a=b c")
    assert load_config(file, ["frontend.std=None"]).frontend.std is None


@pytest.mark.parametrize(
    "change",
    ["batch_size", "data=3", "data.dir.x=3", "=3", "a.b.c=3"],
)
def test_a_malformed_change_is_refused(file, change):
    message = f"'{change}' is no change of a field; write it as FIELD=VALUE"
    with pytest.raises(InputError, match=re.escape(message)):
        load_config(file, [change])


@pytest.mark.parametrize(
    ("change", "like"),
    [
        ("batch_size=many", "7"),
        ("batch_size=1.5", "7"),
        ("batch_size=True", "7"),
        ("frontend.on_device=1", "False"),
        ("frontend.mean=low", "None"),
        ("optimizer.learning_rate=[1]", "0.0001"),
    ],
)
def test_a_value_of_another_type_is_refused(file, change, like):
    name, _, value = change.partition("=")
    message = f"{name} is '{value}'; give a value like {like}"
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        load_config(file, [change])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("get_config = 1 / 0", "ZeroDivisionError"),
        ("x = 1", "KeyError"),
        ("import sys; sys.exit(0)", "SystemExit"),
        ("def get_config(", "SyntaxError"),
        ("def get_config():\n    return {}", "return a TrainConfig"),
    ],
)
def test_an_invalid_configuration_file_is_named(tmp_path, content, message):
    file = tmp_path / "bad.py"
    file.write_text(content)
    with pytest.raises(InputError, match=f"bad.py: .*{message}"):
        load_config(file)
    with pytest.raises(InputError, match=r"none\.py: cannot be used"):
        load_config(tmp_path / "none.py")


@pytest.mark.parametrize("field", ["learning_rate", "weight_decay", "grad_clip_norm"])
@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_numbers_must_be_finite(field, value):
    config = TrainConfig(workdir="runs/x", data=DataConfig(kind="synthetic"))
    setattr(config.optimizer, field, value)
    with pytest.raises(
        InputError, match=f"optimizer.{field} is {value}; it must be 0 or more, and finite"
    ):
        config.validate()


@pytest.mark.parametrize("field", ["patchout_frequency", "patchout_time"])
def test_patchout_must_leave_a_row_and_a_column_of_patches(field):
    config = TrainConfig(workdir="runs/x", data=DataConfig(kind="synthetic"))
    rows, columns = config.model.grid
    most = {"patchout_frequency": rows, "patchout_time": columns}[field] - 1
    setattr(config.augment, field, most)
    config.validate()
    setattr(config.augment, field, most + 1)
    with pytest.raises(InputError, match=rf"augment\.{field} is {most + 1}; .* 0 and {most}"):
        config.validate()
