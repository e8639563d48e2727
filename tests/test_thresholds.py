import json

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ast_jax.errors import InputError
from ast_jax.thresholds import Calibration, Thresholds, calibration_of

LABELS = ["bark", "meow", "owl"]
CONTENT = {
    "criterion": "best F1",
    "chosen_on": "here",
    "calibration": {"scale": [1.0, 2.0, 3.0], "bias": 0.5},
    "classes": [
        {"label": "bark", "threshold": 0.25},
        {"label": "meow", "threshold": None},
        {"label": "owl", "threshold": 1},
    ],
}


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.floats(0, 1) | st.just(np.inf), min_size=3, max_size=3),
    st.none() | st.lists(st.floats(-1e12, 1e12), min_size=6, max_size=6),
    st.text(st.characters(codec="utf-8", exclude_characters="\0")),
)
def test_thresholds_round_trip_through_their_file(tmp_path_factory, values, numbers, text):
    calibration = numbers and Calibration(np.array(numbers[:3]), np.array(numbers[3:]))
    file = tmp_path_factory.mktemp("thresholds") / "x.json"
    Thresholds(LABELS, np.array(values), calibration, text, text).write(file)
    found = Thresholds.read(file)
    assert (found.labels, found.criterion, found.chosen_on) == (LABELS, text, text)
    np.testing.assert_array_equal(found.values, values)
    if calibration:
        np.testing.assert_array_equal(found.calibration, calibration)
    else:
        assert found.calibration is None


def test_thresholds_and_calibration_follow_the_order_of_the_model(tmp_path):
    (tmp_path / "x.json").write_text(json.dumps(CONTENT))
    thresholds = Thresholds.read(tmp_path / "x.json")
    order = ["owl", "bark", "meow"]
    np.testing.assert_array_equal(thresholds.for_labels(order), [1, 0.25, np.inf])
    calibration = thresholds.calibration_for(order)
    for logits in (np.ones((2, 3)), jnp.ones((2, 3))):
        rescaled = calibration.rescale(logits)
        assert isinstance(rescaled, type(logits))
        np.testing.assert_array_equal(rescaled, [[3.5, 1.5, 2.5]] * 2)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["bark", "owl"], "x.json: a threshold for class 'meow', which the model lacks; give"),
        ([*LABELS, "cow"], "x.json: no threshold for class 'cow' of the model; give the thresh"),
    ],
)
def test_thresholds_of_other_classes_are_refused(tmp_path, labels, message):
    Thresholds(LABELS, np.zeros(3)).write(tmp_path / "x.json")
    with pytest.raises(InputError, match=message):
        Thresholds.read(tmp_path / "x.json").for_labels(labels)


def changed(**changes):
    return json.dumps(CONTENT | changes)


def with_row(**changes):
    return changed(classes=[*CONTENT["classes"], {"label": "cow", "threshold": 0.5} | changes])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1", "cannot be read as JSON"),
        ("[]", "the file must be a JSON object with criterion, chosen_on, calibration, classes;"),
        ("{}", "the file lacks 'criterion', and it must be"),
        (changed(more=1), "the file has 'more', and it must be"),
        (changed(criterion=3), "criterion is 3; it must be valid Unicode"),
        (changed(classes={}), "classes is no list"),
        (changed(classes=[]), "there are no classes; give"),
        (changed(classes=["cow"]), r"classes, item 0 \(from 0\), must be a JSON object with label"),
        (with_row(label="owl"), "class 'owl' has two thresholds; remove one"),
        (with_row(label=["owl"]), r"label is \['owl'\]; it must be valid"),
        (with_row(label="\ud800"), "label is .*; it must be valid Unicode"),
        (with_row(threshold=1.5), "item 3.*: threshold is 1.5; it must be a number from 0 to 1"),
        (with_row(threshold=True), "threshold is True"),
        (with_row(threshold="0.5"), "threshold is '0.5'"),
        (with_row(threshold=np.nan), "threshold is nan"),
        (with_row(threshold=10**400), "threshold is 1000"),
        (with_row(), r"calibration.scale has the shape \(3,\) and there are 4 classes"),
        (changed(calibration=1), "calibration must be a JSON object with scale, bias"),
        (changed(calibration={"scale": 1}), "calibration lacks 'bias'"),
        (changed(calibration={"scale": [[1]], "bias": 0}), r"calibration.scale is \[1\]"),
        (changed(calibration={"scale": np.inf, "bias": 0}), "calibration.scale is inf"),
    ],
)
def test_a_damaged_file_is_refused_in_one_sentence_that_names_it(tmp_path, text, message):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(InputError, match=message) as error:
        Thresholds.read(tmp_path / "x.json")
    assert str(error.value).startswith(f"{tmp_path / 'x.json'}: ")


@pytest.mark.parametrize(
    ("labels", "values", "message"),
    [
        (LABELS, np.zeros(2), r"values has the shape \(2,\) and there are 3 classes"),
        (LABELS, [0, 0, np.nan], "the threshold of class 'owl' is nan; it must be from 0 to 1"),
        (LABELS, [0, -0.1, 0], "the threshold of class 'meow' is -0.1"),
        (LABELS, ["a", 0, 0], "values are not numbers"),
    ],
)
def test_invalid_values_are_refused(labels, values, message):
    with pytest.raises(InputError, match=message):
        Thresholds(labels, values)


def test_a_calibration_that_is_not_finite_is_refused():
    with pytest.raises(InputError, match=r"calibration\.bias has NaN"):
        Thresholds(LABELS, np.zeros(3), Calibration(1.0, np.array([0, np.nan, 0])))


def test_a_path_in_place_of_thresholds_is_refused():
    with pytest.raises(InputError, match=r"thresholds is 'x.json'; give Thresholds.read\(path\)"):
        calibration_of("x.json", LABELS)
