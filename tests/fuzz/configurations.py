"""Cases for configuration files: JSON and Python with fields of any value, and damaged JSON."""

import json
import math
import random
from pathlib import Path
from typing import Any

from ast_jax.config import DATA_KINDS, TrainConfig
from ast_jax.config_files import builtin_configs, config_from_dict, load_config
from ast_jax.fields import check_fields
from tests.fuzz.harness import WrongAnswerError

VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2, 10**9, 2**31, 10**400, 0.5, -0.0, 1e308, 5e-324, math.nan,
    math.inf, -math.inf, "", "x", "1", "nan", "adamw", "a\0b", "\ud800", "x" * 10**5, "(", "(a+)+$",
    "../..", [], [1], [[]] * 100, {}, {"kind": "folder"}, {"kind": ["prepared"]}, {"": 0},
]  # fmt: skip


def load_json(seed: int, folder: Path) -> None:
    """Loads JSON with changed fields or bytes; without changes, it must be the same."""
    rng = random.Random(seed)
    base = _some_config(rng)
    fields = base.to_dict()
    changed = [_change(rng, fields) for _ in range(rng.randint(0, 3))]
    text = json.dumps(fields).encode("utf-8", "surrogatepass")
    damaged = rng.random() < 0.3
    if damaged:
        at, end = sorted(rng.randint(0, len(text)) for _ in range(2))
        damage = rng.choice([b"", b"\0", b"\xff", b"[" * 10**5, b"1e999", b"}"])
        text = text[:at] + damage + text[end:]
    file = folder / "c.json"
    file.write_bytes(text)
    config = load_config(file)
    _check(config)
    if not damaged and not changed and config != base:
        raise WrongAnswerError(f"{config} instead of {base}")


def load_python(seed: int, folder: Path) -> None:
    """Loads a Python file that sets a field."""
    rng = random.Random(seed)
    value = rng.choice([*VALUES, "TrainConfig()", "open"])
    source = repr(value).replace("nan", "float('nan')").replace("inf", "float('inf')")
    names = ["workdir", "batch_size", "optimizer.learning_rate", "model.hidden_size", "data.dir"]
    lines = [
        "from ast_jax.config import TrainConfig",
        "def get_config():",
        "    config = TrainConfig()",
        f"    config.{rng.choice(names)} = {source}",
        rng.choice([*["    return config"] * 8, "    return None", "  return", ""]),
    ]
    if rng.random() < 0.3:
        broken = rng.choice(["\0", "raise SystemExit(0)", "1/0", "(" * 500])
        lines[rng.randrange(len(lines))] = broken
    (folder / "c.py").write_text("\n".join(lines), encoding="utf-8", errors="surrogatepass")
    _check(load_config(folder / "c.py"))


def _some_config(rng: random.Random) -> TrainConfig:
    config = load_config(rng.choice(sorted(builtin_configs())))
    if rng.random() < 0.3:
        config.data = rng.choice(list(DATA_KINDS.values()))()
    return config


def _change(rng: random.Random, fields: dict[str, Any]) -> str:
    """Changes a field, removes it, or adds one; returns its name."""
    group, path = fields, ""
    while True:
        name = rng.choice([*group, "no_such_field"])
        path += f".{name}"
        inner = group.get(name)
        if isinstance(inner, dict) and inner and rng.random() < 0.8:
            group = inner
            continue
        if rng.random() < 0.2:
            group.pop(name, None)
        else:
            group[name] = rng.choice(VALUES)
        return path


def _check(config: TrainConfig) -> None:
    """Raises WrongAnswerError unless the configuration is one, and survives being written."""
    check_fields(config)
    text = json.dumps(config.to_dict(), allow_nan=False)
    if config_from_dict(json.loads(text)) != config:
        raise WrongAnswerError(f"{text} is read as another configuration")
