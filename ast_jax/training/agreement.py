"""Checks that the processes of a pod train the same model on the same sounds."""

import hashlib
import json
import socket

import jax
import numpy as np

from ast_jax.config import TrainConfig
from ast_jax.data.clips import DataSet
from ast_jax.errors import InputError
from ast_jax.multihost import gather_texts
from ast_jax.runs.logging import describe_run
from ast_jax.runs.workdir import describe_data, first_difference


def check_agreement(config: TrainConfig, data: DataSet) -> None:
    """Checks that all processes of a pod have the same configuration, versions, classes and sounds.

    Folders of sounds and the number of workers may differ. Collective: each process must call it.

    Args:
        config: of this process.
        data: of this process.

    Raises:
        InputError: in every process, if one differs; names the first difference.
    """
    if jax.process_count() == 1:
        return
    run = describe_run()
    fields = config.to_dict()
    for name in ("dir", "workers"):
        fields["data"].pop(name, None)
    description = {
        "version": run["versions"] | {name: run[name] for name in ("git_commit", "git_dirty")},
        "config": fields,
        "data": describe_data(data) | {"sounds": digest_sounds(data)},
    }
    texts = gather_texts(json.dumps([socket.gethostname(), description]))
    (_, first), *others = (json.loads(text) for text in texts)
    for process, (host, other) in enumerate(others, 1):
        if other != first:
            raise InputError(
                f"process {process} ({host}) differs from process 0 in "
                f"{first_difference(first, other)}; start all with the same configuration, code "
                f"and data"
            )


def digest_sounds(data: DataSet) -> str:
    """Returns a digest of all sounds in memory; those of a prepared set have `data.digest`."""
    digest = hashlib.blake2b(data.digest.encode(), digest_size=16)
    if not data.digest:
        for clips in (data.train, data.evaluation, data.test):
            for waveform in clips.waveforms if clips else ():
                digest.update(np.ascontiguousarray(waveform).data)
    return digest.hexdigest()
