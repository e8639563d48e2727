"""TensorFlow, which is loaded late and kept quiet: it feeds and records, and computes nothing."""

import os
from typing import Any


def import_tensorflow() -> Any:
    """The module, kept off the accelerator, which is JAX's."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # it speaks up otherwise
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")
    return tf
