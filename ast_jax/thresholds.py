"""A model's decision thresholds and calibration, and their JSON file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np

from ast_jax.errors import InputError, quoted, shorten
from ast_jax.fields import Range, check_value
from ast_jax.io import read_json, write_json

KEYS = ("criterion", "chosen_on", "calibration", "classes")
MAX = 1e12  # size of a scale or bias


class Calibration(NamedTuple):
    """A linear map of logits: probabilities are the softmax or sigmoid of `scale * logit + bias`.

    Temperature scaling is `scale` 1/T without `bias`; Platt scaling has both for each class.

    Attributes:
        scale: a number, or float64 (classes,).
        bias: the same.
    """

    scale: float | np.ndarray
    bias: float | np.ndarray

    def rescale(self, logits: Any) -> Any:
        """Returns calibrated logits (..., classes), of NumPy or JAX as the given ones."""
        return self.scale * logits + self.bias


@dataclass(frozen=True, eq=False)
class Thresholds:
    """The thresholds of a model: a clip has each class with a probability of at least its own.

    Attributes:
        labels: class names.
        values: float64 (classes,), from 0 to 1; infinite for a class that is never detected, as no
            threshold could be chosen.
        calibration: of the probabilities that are compared; None for the model's own.
        criterion: how the values were chosen, in words.
        chosen_on: the model and the clips that they were chosen with, in words.
        source: the file that they were read from, for messages.
    """

    labels: Sequence[str]
    values: np.ndarray
    calibration: Calibration | None = None
    criterion: str = ""
    chosen_on: str = ""
    source: str = "the thresholds"

    def __post_init__(self) -> None:
        """Checks all fields.

        Raises:
            InputError: a field has a wrong type or length, a value is out of its range, or two
                classes have one name.
        """
        for name in ("criterion", "chosen_on"):
            check_value(name, getattr(self, name), str)
        seen = set()
        for label in self.labels:
            check_value("label", label, str)
            if label in seen:
                raise InputError(f"class {quoted(label)} has two thresholds; remove one")
            seen.add(label)
        if not seen:
            raise InputError("there are no classes; give a threshold for each class")
        try:
            values = np.asarray(self.values, np.float64)
        except (TypeError, ValueError):
            raise InputError("values are not numbers; give a number for each class") from None
        _check_length("values", values, len(seen))
        for label, value in zip(self.labels, values.tolist(), strict=True):
            if not 0 <= value <= 1 and value != np.inf:  # NaN is neither
                raise InputError(
                    f"the threshold of class {quoted(label)} is {value}; it must be from 0 to 1, "
                    f"or infinite for none"
                )
        object.__setattr__(self, "values", values)
        if self.calibration is not None:
            for name, numbers in zip(("scale", "bias"), self.calibration, strict=True):
                if not (np.abs(numbers) <= MAX).all():  # NaN is not
                    raise InputError(
                        f"calibration.{name} has NaN or values beyond {MAX:.0e}; fit it again"
                    )
                if np.ndim(numbers):
                    _check_length(f"calibration.{name}", np.asarray(numbers), len(seen))

    @classmethod
    def read(cls, path: str | Path) -> "Thresholds":
        """Reads the JSON file that `write` writes.

        Raises:
            InputError: the file is missing, or its content cannot be used; the message names it.
        """
        content = read_json(path)
        try:
            _check_keys("the file", content, KEYS)
            rows = content["classes"]
            if not isinstance(rows, list):
                raise InputError("classes is no list; give a list with an item for each class")
            for i, row in enumerate(rows):
                _check_keys(f"classes, item {i} (from 0),", row, ("label", "threshold"))
                check_value(
                    f"classes, item {i} (from 0): threshold",
                    row["threshold"],
                    Annotated[float | None, Range(0, 1)],
                )
            return cls(
                [row["label"] for row in rows],
                np.array([np.inf if (t := row["threshold"]) is None else t for row in rows]),
                _read_calibration(content["calibration"]),
                content["criterion"],
                content["chosen_on"],
                str(path),
            )
        except InputError as error:
            raise InputError(f"{path}: {error}") from None

    def write(self, path: str | Path) -> None:
        """Writes the thresholds to a JSON file atomically, replacing an existing one.

        A class without a threshold has `null`.
        """
        calibration = None
        if self.calibration is not None:
            calibration = {
                name: np.asarray(numbers, np.float64).tolist()
                for name, numbers in self.calibration._asdict().items()
            }
        rows = [
            {"label": label, "threshold": value if np.isfinite(value) else None}
            for label, value in zip(self.labels, self.values.tolist(), strict=True)
        ]
        content = (self.criterion, self.chosen_on, calibration, rows)
        write_json(path, dict(zip(KEYS, content, strict=True)))

    def for_labels(self, labels: Sequence[str]) -> np.ndarray:
        """Returns the values in the order of a model's class names, float64 (classes,).

        Raises:
            InputError: the classes are not the same.
        """
        return self.values[self._order(labels)]

    def calibration_for(self, labels: Sequence[str]) -> Calibration | None:
        """Returns the calibration in the order of a model's class names; errors as `for_labels`."""
        if self.calibration is None:
            return None
        order = self._order(labels)
        fields = map(np.asarray, self.calibration)
        return Calibration(*(field[order] if field.ndim else field for field in fields))

    def _order(self, labels: Sequence[str]) -> list[int]:
        """Returns the index here of each class of a model."""
        index = {label: i for i, label in enumerate(self.labels)}
        if missing := [quoted(label) for label in labels if label not in index]:
            raise InputError(
                f"{self.source}: no threshold for class {shorten(missing)} of the model; give the "
                f"thresholds of this model"
            )
        model = set(labels)
        if extra := [quoted(label) for label in self.labels if label not in model]:
            raise InputError(
                f"{self.source}: a threshold for class {shorten(extra)}, which the model lacks; "
                f"give the thresholds of this model"
            )
        return [index[label] for label in labels]


def calibration_of(thresholds: Thresholds | None, labels: Sequence[str]) -> Calibration | None:
    """Returns the calibration that goes with thresholds, in the order of a model's class names.

    Raises:
        InputError: the thresholds are of another type, or of other classes.
    """
    if thresholds is None:
        return None
    if not isinstance(thresholds, Thresholds):
        raise InputError(f"thresholds is {thresholds!r}; give Thresholds.read(path)")
    return thresholds.calibration_for(labels)


def _read_calibration(content: Any) -> Calibration | None:
    """Returns the calibration of a file's content: None, or numbers or lists of numbers."""
    if content is None:
        return None
    _check_keys("calibration", content, Calibration._fields)
    fields = []
    for name in Calibration._fields:
        numbers = content[name]
        for number in numbers if isinstance(numbers, list) else [numbers]:
            check_value(f"calibration.{name}", number, Annotated[float, Range(-MAX, MAX)])
        fields.append(np.array(numbers, np.float64) if isinstance(numbers, list) else numbers)
    return Calibration(*fields)


def _check_keys(where: str, content: Any, keys: Sequence[str]) -> None:
    """Raises InputError unless `content` is a JSON object of exactly these keys."""
    wanted = f"must be a JSON object with {', '.join(keys)}"
    if not isinstance(content, Mapping):
        raise InputError(f"{where} {wanted}; repair or replace it")
    for key in content:
        if key not in keys:
            raise InputError(f"{where} has {quoted(key)}, and it {wanted}; correct or remove it")
    for key in keys:
        if key not in content:
            raise InputError(f"{where} lacks '{key}', and it {wanted}; add it")


def _check_length(name: str, numbers: np.ndarray, classes: int) -> None:
    if numbers.shape != (classes,):
        raise InputError(
            f"{name} has the shape {numbers.shape} and there are {classes} classes; give a number "
            f"for each class"
        )
