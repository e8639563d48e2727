import csv

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ast_jax.data.sources.manifest_io import check_text, quoted, read_table, visible
from ast_jax.errors import InputError


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_rows_do_not_depend_on_byte_order_mark_and_line_ends(tmp_path, start, end):
    file = tmp_path / "a.csv"
    file.write_bytes(start + end.join([b"path,labels", b"", b' x , "a,b"', b'y,"c,d"', b""]))
    with pytest.raises(InputError, match="line 3"):  # a quote inside a field
        list(read_table(file, ("path",)))
    file.write_bytes(start + end.join([b"path,labels", b"", b' x ,"a,b"', b"y"]))
    assert list(read_table(file, ("path",))) == [
        (f"{file}, line 3", {"path": "x", "labels": "a,b"}),
        (f"{file}, line 4", {"path": "y", "labels": ""}),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "a.csv: the first line names no column 'path'"),
        (b"paths\n", "a.csv: the first line names no column 'path'; name path there"),
        (b"path,x,x\n", "a.csv: the first line names the column 'x' twice"),
        (b"path\na\n\xff\n", r"a.csv: not a CSV file in UTF-8 \(line 3: invalid start byte\)"),
        ("path\na\n".encode("utf-16"), r"a.csv: not a CSV file in UTF-8 \(line 1 "),
        (b"path\na\0b\n", r"a.csv: not a CSV file in UTF-8 \(line 2 has a NUL byte\)"),
        (b'path\n"a', r"a.csv: not a CSV file in UTF-8 \(line 2: unexpected end of data\)"),
        (b"path\ra\r", r"a.csv: not a CSV file in UTF-8 \(line 1: new-line"),
        (b"path\na\n" + b"x" * (csv.field_size_limit() + 1), r"\(line 3: field larger than"),
        (b"path\na,b\n", "a.csv, line 2: has 2 fields, the first line 1"),
        (b"path\n  \n", "a.csv, line 2: path is empty"),
        (b'path\n"a\nb"\n', r"a.csv, line 3: path 'a\\nb' has a line break"),
    ],
)
def test_a_malformed_table_is_named_with_its_line(tmp_path, content, message):
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(InputError, match=message):
        list(read_table(tmp_path / "a.csv", ("path",)))


@settings(deadline=None)
@given(content=st.binary(max_size=60), rows=st.booleans())
def test_any_bytes_give_rows_or_an_input_error(tmp_path_factory, content, rows):
    file = tmp_path_factory.getbasetemp() / "any.csv"
    file.write_bytes(b"path,labels\n" * rows + content)
    message = ""
    try:
        for where, row in read_table(file, ("path",)):
            assert where.startswith(f"{file}, line ")
            assert len(row["path"].splitlines()) == 1
    except InputError as error:
        message = str(error)
    assert len(message.splitlines()) <= 1


def test_a_file_or_folder_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.csv: cannot be read \(No such file"):
        list(read_table(tmp_path / "none.csv", ("path",)))
    with pytest.raises(InputError, match=r"cannot be read \(Is a directory\)"):
        list(read_table(tmp_path, ("path",)))
    with pytest.raises(InputError, match=r"none: cannot be read \(No such file"):
        visible(tmp_path / "none")


@settings(deadline=None)
@given(value=st.text(st.characters()))  # includes lone surrogates
def test_accepted_and_quoted_text_is_one_line_of_utf8(value):
    assert len(quoted(value).encode().splitlines()) == 1
    assert len(quoted(value)) < 1000
    message = ""
    try:
        check_text(value, "path", "a.csv, line 1")
    except InputError as error:
        message = str(error)
    assert len((message or value).encode().splitlines()) == 1
    assert len((message or value).splitlines()) == 1
