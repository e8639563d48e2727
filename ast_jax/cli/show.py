"""`ast-jax show`: draws a training batch as the model sees it."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import tyro

from ast_jax.cli.arguments import NonNegative, check_given
from ast_jax.cli.configs import DataKind
from ast_jax.errors import InputError
from ast_jax.io import check_free
from ast_jax.urls import check_local


def show_command(config_type: Any) -> Callable[..., int]:
    """Returns the command; `config_type` is that of `ast_jax.cli.configs`."""

    def show(
        config: config_type,
        *,
        output: Annotated[str, tyro.conf.arg(metavar="PNG")],
        step: NonNegative = 0,
        data_kind: DataKind = None,
    ) -> int:
        """Draw a training batch as the model sees it.

        Args:
            config: what to draw: one of these, or a file, CONFIG.py or CONFIG.json
            output: the file to write
            step: the training step
            data_kind: another kind of data; its fields replace those below
        """
        from ast_jax.training.plot_batch import plot_batch

        check_given(output=output)
        check_local(output)
        file = Path(output)
        if file.suffix.lower() != ".png":
            raise InputError(f"{file}: not a PNG file name; let it end in .png")
        check_free(file)
        plot_batch(config, file, step)
        print(f"wrote {output}")
        return 0

    return show
