"""The one exception that means: what the user gave cannot be used."""


class InputError(ValueError):
    """Says in one sentence which file, field or tensor is wrong and what to do about it.

    Commands print the sentence and exit non-zero without a traceback; anything else that
    is raised is a fault of ours and keeps its traceback.
    """
