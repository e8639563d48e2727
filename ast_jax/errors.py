"""The one exception that means: what the user gave cannot be used."""

import difflib
from collections.abc import Collection


class InputError(ValueError):
    """Says in one sentence which file, field or tensor is wrong and what to do about it.

    Commands print the sentence and exit non-zero without a traceback; anything else that
    is raised is a fault of ours and keeps its traceback.
    """


def nearest(name: str, names: Collection[str]) -> str:
    """The one of `names` that was meant by a misspelt `name`, or all of them, for a message."""
    return ", ".join(difflib.get_close_matches(name, names, 1) or sorted(names))
