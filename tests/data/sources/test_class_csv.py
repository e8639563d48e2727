from importlib import resources

import pytest

from ast_jax.data.sources.class_csv import read_classes
from ast_jax.errors import InputError
from ast_jax.labels import class_names


@pytest.mark.parametrize("name", ["audioset", "esc50", "speech_commands_v2_35"])
def test_the_published_lists_are_read_completely(name):
    with resources.as_file(resources.files("ast_jax") / "class_lists") as folder:
        names, mids = read_classes(folder / f"{name}.csv")
    assert tuple(names) == class_names(name)
    assert len(set(mids)) == len(names)


def test_classes_are_in_the_order_of_their_indices(tmp_path):
    file = tmp_path / "classes.csv"
    file.write_text("mid,index,display_name\n/m/b,1,B\n/m/a,0,A\n")
    assert read_classes(file) == (["A", "B"], ["/m/a", "/m/b"])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("", r"classes\.csv: lists no classes"),
        ("0,/m/a,A\n2,/m/b,B\n", r"line 3: .* with 2 classes and without index 1"),
        ("one,/m/a,A\n", "line 2: .* without index 0"),
        ("0,/m/a,A\n0,/m/b,B\n", r"line 3: '0' is in .*line 2 already"),
        ("0,/m/a,A\n1,/m/a,B\n", r"line 3: '/m/a' is in .*line 2 already"),
        ("0,/m/a,A\n1,/m/b,A\n", r"line 3: 'A' is in .*line 2 already"),
        ("0,,A\n", "line 2: mid is empty"),
    ],
)
def test_an_invalid_class_list_is_named_with_its_line(tmp_path, rows, message):
    file = tmp_path / "classes.csv"
    file.write_text("index,mid,display_name\n" + rows)
    with pytest.raises(InputError, match=message):
        read_classes(file)
