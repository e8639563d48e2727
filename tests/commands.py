"""The commands that documents give, and what their arguments come to."""

import json
import re
import shlex

from ast_jax.cli.main import main
from ast_jax.config_files import config_from_dict


def train_commands(text):
    """Returns the arguments of each `ast-jax train …` in a text, in prose too."""
    text = text.replace("\\\n", " ")
    found = re.findall(r"ast-jax train (?!\|)([^`\n&]*)", text)
    return [shlex.split(arguments.replace("$", "")) for arguments in found]


def parse_train(arguments, capsys):
    """Returns the configuration that `ast-jax train` would use."""
    assert main(["train", *arguments, "--print-config"]) == 0
    return config_from_dict(json.loads(capsys.readouterr().out))
