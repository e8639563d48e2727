"""A case that ends in each of the ways that the harness counts."""

import os
import time

import numpy as np

from ast_jax.errors import InputError
from tests.fuzz.harness import ENDS, WrongAnswerError


def end(seed, folder):
    """Ends as `ENDS[seed]`."""
    match ENDS[seed]:
        case "answer":
            (folder / "input").touch()
        case "refusal":
            raise InputError("x: is empty; fill it")
        case "wrong answer":
            raise WrongAnswerError("1 instead of 2")
        case "traceback":
            raise KeyError("a bug")
        case "crash":
            os.abort()
        case "hang":
            time.sleep(60)
        case "memory":
            np.ones(150 * 2**20, np.uint8)
