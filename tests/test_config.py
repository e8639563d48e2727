import dataclasses
import json
import math
import os
import re
import types
from typing import Annotated, Literal, Union, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ast_jax.config import (
    DATA_KINDS,
    FolderData,
    PreparedData,
    SyntheticData,
    TrainConfig,
)
from ast_jax.config_files import config_from_dict, data_of_kind, load_config
from ast_jax.errors import InputError
from ast_jax.losses import LOSSES
from ast_jax.models.config import ASTConfig
from ast_jax.models.remat import REMAT

FILE = """
from ast_jax.config import TrainConfig

def get_config():
    return TrainConfig(workdir="runs/x", batch_size=7)
"""


def trainable():
    return TrainConfig(workdir="runs/x", data=SyntheticData())


def fields_of(group, prefix=""):
    """Yields the dotted name and type of every field, those of all kinds of data included."""
    for name, hint in get_type_hints(type(group), include_extras=True).items():
        if name == "kind" and prefix == "data.":
            continue
        value = getattr(group, name)
        if name == "data":
            for kind in DATA_KINDS.values():
                for (_, inner), its_hint in fields_of(kind(), "data."):
                    yield (kind, inner), its_hint
        elif dataclasses.is_dataclass(value):
            yield from fields_of(value, f"{prefix}{name}.")
        else:
            yield (SyntheticData, prefix + name), hint


def wrong_values(hint):
    """Returns values that a field of a type never takes."""
    options = [None, "", "3", "x" * 5000, b"3", [], [1], {}, (1,), object(), 1j, math.nan, math.inf]
    options += [-math.inf, 1.5, -1, 10**400, True, False, math, int]
    if get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    kinds = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)

    def fits(value):
        if value is None:
            return type(None) in kinds
        if kinds[0] is bool:
            return isinstance(value, bool)
        if kinds[0] is str or get_origin(kinds[0]) is Literal:
            return isinstance(value, str)
        if kinds[0] in (int, float):
            whole = isinstance(value, int) and not isinstance(value, bool) and value < 10**9
            return whole or (kinds[0] is float and value == 1.5)
        return isinstance(value, dict)  # id2label

    return [value for value in options if not fits(value)]


FIELDS = list(fields_of(TrainConfig()))


def test_the_fields_of_all_groups_are_checked():
    names = {name for (_, name), _ in FIELDS}
    assert {"seed", "optimizer.eps", "model.hidden_size", "data.holdout", "data.digest"} <= names
    assert len(FIELDS) > 80


@given(st.data())
def test_a_value_of_a_wrong_type_is_refused_in_one_sentence(data):
    (kind, name), hint = data.draw(st.sampled_from(FIELDS))
    config = trainable()
    config.data = kind()
    if hasattr(config.data, "dir"):
        config.data.dir = "sounds"
    *groups, last = name.split(".")
    group = config
    for each in groups:
        group = getattr(group, each)
    value = data.draw(st.sampled_from(wrong_values(hint)))
    setattr(group, last, value)
    with pytest.raises(InputError) as caught:
        config.validate()
    message = str(caught.value)
    assert last in message
    assert "\n" not in message
    assert len(message) < 400


@pytest.mark.parametrize("group", ["model", "frontend", "data", "augment", "optimizer"])
@pytest.mark.parametrize("value", [None, {}, "x", TrainConfig])
def test_a_group_of_another_type_is_refused(group, value):
    config = trainable()
    setattr(config, group, value)
    with pytest.raises(InputError, match=rf"^{group} is .*; it must be a \w+"):
        config.validate()


@pytest.mark.parametrize("kind", DATA_KINDS.values())
def test_valid_configurations_pass_and_survive_json(kind):
    config = trainable()
    config.data = kind(balanced=True)
    config.frontend.mean, config.optimizer.learning_rate = -4, 1
    config.model = ASTConfig(id2label={0: "dog", 1: "rain"}, num_labels=2)
    if kind is not SyntheticData:
        config.data.dir = "sounds"
    config.validate()
    saved = json.loads(json.dumps(config.to_dict()))
    config.model.id2label = None  # the data's
    assert config_from_dict(saved) == config
    assert type(config_from_dict(saved).data) is kind


def test_choices_are_those_of_the_code():
    hints = get_type_hints(TrainConfig)
    assert get_args(hints["loss"]) == tuple(LOSSES)
    assert get_args(hints["remat"]) == tuple(REMAT)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"optimizer": {"learning_rat": 1}}, "no field 'optimizer.learning_rat'; did you mean"),
        ({"bach_size": 1}, "no field 'bach_size'; did you mean batch_size?"),
        ({"optimizer": 3}, "x.json: optimizer must be a JSON object of fields"),
        ([], "x.json: it must be a JSON object of fields"),
        ({"data": {"kind": "esc51"}}, "data.kind is 'esc51'; it must be one of"),
        ({"data": {"kind": []}}, "data.kind is []; it must be one of"),
    ],
)
def test_wrong_names_in_saved_configurations_are_refused(fields, message):
    with pytest.raises(InputError, match=re.escape(message)):
        config_from_dict(fields, "x.json")


def test_configurations_of_earlier_versions_are_read():
    """They had other names, and the fields of all kinds of data in one group."""
    old = {"kind": "prepared", "dir": "sets", "name": "csv", "holdout": 0.2, "train_clips": 100}
    config = config_from_dict({"keep": 3, "optimizer": {"clip_norm": 1.0}, "data": old})
    assert (config.max_to_keep, config.optimizer.grad_clip_norm) == (3, 1.0)
    assert config.data == PreparedData(dir="sets", name="csv")


@pytest.mark.parametrize("group", ["(", "*", "(?P<x", "[a-", "a{2,1}"])
def test_an_invalid_regular_expression_is_named(group):
    config = trainable()
    config.data = FolderData(dir="sounds", group=group)
    with pytest.raises(InputError, match=r"^data\.group is '.*', not a regular expression \("):
        config.validate()


def test_another_kind_of_data_keeps_the_fields_that_both_have():
    data = data_of_kind("prepared", like=FolderData(dir="x", workers=3, holdout=0.5))
    assert data == PreparedData(dir="x", workers=3)


def test_files_are_loaded(tmp_path):
    assert load_config("demo").data == SyntheticData(train_clips=300)
    path = tmp_path / "mine.py"
    path.write_text(FILE)
    config = load_config(path)
    assert config == TrainConfig(workdir="runs/x", batch_size=7)
    for saved in (config.to_dict(), {"config": config.to_dict(), "feature_extractor": {}}):
        (tmp_path / "saved.json").write_text(json.dumps(saved))
        assert load_config(tmp_path / "saved.json") == config


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("get_config = 1 / 0", "ZeroDivisionError"),
        ("x = 1", "KeyError"),
        ("from ast_jax.config import DataConfig", "renamed to SyntheticData, FolderData"),
        ("from ast_jax.config import TrainConfig\nTrainConfig(keep=1)", "renamed to max_to_keep"),
        ("import sys; sys.exit(0)", "SystemExit"),
        ("def get_config(", "SyntaxError"),
        ("def get_config():\n    return {}", "return a TrainConfig"),
        (FILE.replace("7", "None"), "batch_size is None; it must be a whole number"),
        (FILE.replace("batch_size=7", "data=None"), "data is None; it must be a Synthetic"),
        (FILE + "\nclass Mine(TrainConfig): ...\nget_config = Mine", "returns a Mine"),
    ],
)
def test_an_invalid_configuration_file_is_named(tmp_path, content, message):
    file = tmp_path / "bad.py"
    file.write_text(content)
    with pytest.raises(InputError, match=f"bad.py: .*{message}"):
        load_config(file)
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(InputError, match=r"pipe\.json: is a pipe or a device, not a file"):
        load_config(tmp_path / "pipe.json")
    with pytest.raises(InputError, match=r"none\.py: there is no such file"):
        load_config(tmp_path / "none.py")
    with pytest.raises(InputError, match="is a folder"):
        load_config(tmp_path)


@pytest.mark.parametrize("field", ["patchout_frequency", "patchout_time"])
def test_patchout_must_leave_a_row_and_a_column_of_patches(field):
    config = trainable()
    rows, columns = config.model.grid
    most = {"patchout_frequency": rows, "patchout_time": columns}[field] - 1
    setattr(config.augment, field, most)
    config.validate()
    setattr(config.augment, field, most + 1)
    with pytest.raises(
        InputError, match=rf"augment\.{field} is {most + 1}; it must be at most {most}, the"
    ):
        config.validate()
