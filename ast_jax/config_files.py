"""Reads configurations from files: Python files such as those in `configs/`, and JSON."""

import dataclasses
import runpy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ast_jax.config import DATA_KINDS, Data, FolderData, TrainConfig
from ast_jax.errors import InputError, first_line, nearest
from ast_jax.fields import check_fields
from ast_jax.io import check_readable, read_json

MAX_BYTES = 1 << 24  # of a configuration file

# Names of earlier versions, in the files of runs and in configuration files.
RENAMED = {
    "accumulate": "grad_accum_steps",
    "keep": "max_to_keep",
    "save_every": "checkpoint_every_steps",
    "result": "final_params",
    "clip_norm": "grad_clip_norm",
}


def builtin_configs() -> dict[str, Path]:
    """Returns the files of the configurations that come with the package, by name."""
    package = Path(__file__).parent
    folder = package / "configs"  # in a wheel
    if not folder.is_dir():
        folder = package.parent / "configs"  # in a clone
    return {path.stem: path for path in sorted(folder.glob("*.py"))}


def load_config(file: str | Path) -> TrainConfig:
    """Loads a configuration.

    Args:
        file: the name of one that comes with the package, such as "finetune"; a Python file such
            as those in `configs/`, which is executed, with a `get_config()` that returns a
            `TrainConfig`; or a JSON file of fields, such as `ast-jax train demo --print-config`
            prints, or a run's `run.json`.

    Raises:
        InputError: the file does not exist or cannot be used, or a field has a wrong type or is out
            of its range.
    """
    file = builtin_configs().get(str(file), Path(file))
    if file.is_dir():
        raise InputError(f"{file}: is a folder; give a configuration's name or file")
    try:
        check_readable(file, MAX_BYTES)
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{file}: there is no such file; give a configuration's name or file"
        ) from None
    config = _read_json(file) if file.suffix.lower() == ".json" else _run_python(file)
    try:
        check_fields(config)
    except InputError as error:
        raise InputError(f"{file}: {error}") from None
    return config


def _read_json(file: Path) -> TrainConfig:
    fields = read_json(file)
    if isinstance(fields, dict) and {"config", "feature_extractor"} <= fields.keys():  # a run
        return config_of_run(fields, str(file))
    return config_from_dict(fields, str(file))


def _run_python(file: Path) -> TrainConfig:
    try:
        config = runpy.run_path(str(file))["get_config"]()
    except (Exception, SystemExit) as error:  # the file is anyone's code
        raise InputError(
            f"{file}: cannot be used as a configuration ({type(error).__name__}: "
            f"{first_line(error)}{renamed_hint(str(error))}); its get_config() must return a "
            f"TrainConfig"
        ) from None
    # A subclass has fields that --help, --print-config and run.json cannot have.
    if type(config) is not TrainConfig:
        raise InputError(
            f"{file}: get_config() returns a {type(config).__name__}; return a TrainConfig"
        )
    return config


def config_from_dict(fields: Any, source: str = "the configuration") -> TrainConfig:
    """Returns the configuration that `TrainConfig.to_dict` describes; it is not validated.

    Missing fields have their defaults.

    Raises:
        InputError: a name is not that of a field; `source` is where it stands.
    """
    config = TrainConfig()
    if isinstance(fields, dict):
        fields = _update_names(fields)
        if isinstance(fields.get("data"), dict):
            data = dict(fields["data"])
            try:
                config.data = data_of_kind(data.pop("kind", config.data.kind))
            except InputError as error:
                raise InputError(f"{source}: {error}") from None
            fields["data"] = data
        if isinstance(fields.get("model"), dict):
            fields["model"] = fields["model"] | {"id2label": None}  # the data's
    _assign(config, fields, source, "")
    return config


def config_of_run(run: Mapping[str, Any], source: str) -> TrainConfig:
    """Returns the configuration in a `run.json`.

    Runs of earlier versions did not record how a folder is held out, as there was one way.

    Raises:
        InputError: as `config_from_dict`.
    """
    fields = run["config"]
    config = config_from_dict(fields, source)
    if isinstance(config.data, FolderData) and "stratify" not in fields.get("data", {}):
        config.data = dataclasses.replace(config.data, stratify=False, recursive=False)
    return config


def _update_names(fields: dict[str, Any]) -> dict[str, Any]:
    """Returns the fields of a `run.json` or saved configuration with the names of this version."""

    def rename(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {RENAMED.get(name, name): rename(each) for name, each in value.items()}

    fields = rename(fields)
    data = fields.get("data")
    if isinstance(data, dict) and data.get("kind") in tuple(DATA_KINDS):
        # Earlier versions had the fields of all kinds in one dataclass.
        others = {f.name for kind in DATA_KINDS.values() for f in dataclasses.fields(kind)}
        own = {f.name for f in dataclasses.fields(DATA_KINDS[data["kind"]])}
        fields["data"] = {k: v for k, v in data.items() if k not in others - own}
    return fields


def data_of_kind(kind: Any, like: Data | None = None) -> Any:
    """Returns data of a kind of `DATA_KINDS`, with the fields that it shares with other data.

    Raises:
        InputError: there is no such kind.
    """
    if kind not in tuple(DATA_KINDS):
        raise InputError(f"data.kind is {kind!r}; it must be one of {', '.join(DATA_KINDS)}")
    data = DATA_KINDS[kind]()
    for each in dataclasses.fields(data):
        if hasattr(like, each.name):
            setattr(data, each.name, getattr(like, each.name))
    return data


def _assign(group: Any, values: Any, source: str, prefix: str) -> None:
    """Sets the fields of a dataclass from a dict."""
    if not isinstance(values, dict):
        raise InputError(f"{source}: {prefix[:-1] or 'it'} must be a JSON object of fields")
    names = {each.name for each in dataclasses.fields(group)}
    for name, value in values.items():
        if name not in names:
            raise InputError(
                f"{source}: no field '{prefix}{name}'; did you mean {nearest(str(name), names)}?"
            )
        if dataclasses.is_dataclass(getattr(group, name)):
            _assign(getattr(group, name), value, source, f"{prefix}{name}.")
        else:
            setattr(group, name, value)


def renamed_hint(message: str) -> str:
    """Returns ", renamed to NEW" if an error's message quotes a former name."""
    former = RENAMED | {"DataConfig": "SyntheticData, FolderData, ESC50Data or PreparedData"}
    found = [new for old, new in former.items() if f"'{old}'" in message]
    return f", renamed to {found[0]}" if found else ""
