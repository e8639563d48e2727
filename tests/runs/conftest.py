import numpy as np
import pytest

from ast_jax.evaluation.metrics import compute_metrics


@pytest.fixture
def evaluation():
    """Returns logits and targets of five classes; no clip has the last class."""
    rng = np.random.default_rng(0)
    targets = np.eye(5, dtype=np.float32)[rng.integers(0, 4, 40)]
    return rng.standard_normal((40, 5)) + targets, targets


@pytest.fixture
def history(evaluation):
    """Returns the rows of two evaluations, the second with perfect scores."""
    _, targets = evaluation
    rows = [compute_metrics(logits, targets, loss=0.5) for logits in (evaluation[0], targets)]
    return [
        {"epoch": 2 * i + 2, "training_loss": 0.75, **row._asdict()} for i, row in enumerate(rows)
    ]
