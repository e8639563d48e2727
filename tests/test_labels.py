import pytest

from ast_jax.labels import (
    AUDIOSET,
    BY_NUM_LABELS,
    ESC50,
    SPEECH_COMMANDS,
    class_names,
    id2label,
    label_fields,
)


@pytest.mark.parametrize(
    ("benchmark", "first", "last"),
    [
        (AUDIOSET, "Speech", "Field recording"),
        (ESC50, "dog", "hand_saw"),
        (SPEECH_COMMANDS, "backward", "one"),
    ],
)
def test_class_lists_are_complete_and_in_the_published_order(benchmark, first, last):
    names = class_names(benchmark.class_list)
    (count,) = (n for n, known in BY_NUM_LABELS.items() if known is benchmark)
    assert len(names) == len(set(names)) == count
    assert (names[0], names[-1]) == (first, last)
    assert all(name == name.strip() and name for name in names)


def test_a_name_with_commas_is_one_name():
    assert class_names("audioset")[1] == "Male speech, man speaking"


def test_speech_commands_are_not_in_alphabetical_order():
    names = class_names("speech_commands_v2_35")
    assert list(names) != sorted(names)
    assert {"yes", "no", "marvin", "forward"} <= set(names)


def test_id2label_has_the_list_by_index():
    assert id2label("esc50") == dict(enumerate(class_names("esc50")))


def test_only_audiosets_classes_are_not_exclusive():
    kinds = {b.class_list: b.problem_type for b in BY_NUM_LABELS.values()}
    assert kinds.pop("audioset") == "multi_label_classification"
    assert set(kinds.values()) == {"single_label_classification"}


def test_label_fields_names_only_the_benchmarks_classes():
    assert label_fields(50)["id2label"][0] == "dog"
    assert label_fields(527)["problem_type"] == "multi_label_classification"
    assert label_fields(10) == {"num_labels": 10, "problem_type": "single_label_classification"}
