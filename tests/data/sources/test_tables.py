import csv

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ast_jax.data.sources.tables import open_table, read_table
from ast_jax.errors import InputError


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_rows_do_not_depend_on_byte_order_mark_and_line_ends(tmp_path, start, end):
    file = tmp_path / "a.csv"
    file.write_bytes(start + end.join([b"path,labels", b"", b' x , "a,b"', b"y"]))
    assert list(open_table(file, ()).rows()) == [
        (f"{file}, line 3", {"path": "x", "labels": "a,b"}),
        (f"{file}, line 4", {"path": "y"}),
    ]


@pytest.mark.parametrize(
    ("content", "delimiter", "line"),
    [
        ("Path,Labels\nx,a;b\n", ",", 2),
        ("path;labels\nx;a,b\n", ";", 2),
        ("path\tlabels\nx\ta,b\n", "\t", 2),
        ("path|labels\nx|a,b\n", "|", 2),
        ("sep=;\nPATH;LABELS\nx;a,b\n", ";", 3),
        ('"sep=\t"\npath\tlabels\nx\ta\n', "\t", 3),
        ("SEP=:\r\npath:labels\r\n:\r\nx:a\r\n", ":", 4),
        # The content has more semicolons than commas: only the line of names decides.
        ("path,labels\nx,a;b;c;d\n", ",", 2),
        ("path;a,b,c,d\nx;1\n", ";", 2),
        ("a,b\n1,2\n", ",", 2),
    ],
)
def test_the_line_of_names_decides_the_delimiter(tmp_path, content, delimiter, line):
    (tmp_path / "a.csv").write_text(content, newline="")
    table = open_table(tmp_path / "a.csv", {"path", "labels"})
    assert table.delimiter == delimiter
    ((where, row),) = table.rows()
    assert where.endswith(f", line {line}")
    assert next(iter(row.values())) in ("x", "1")


def test_columns_without_a_name_are_left_out(tmp_path):
    (tmp_path / "a.csv").write_text(",path,,\n0,x,1,\n")
    ((_, row),) = open_table(tmp_path / "a.csv", ()).rows()
    assert row == {"path": "x"}


def test_rows_and_fields_that_spreadsheets_leave_empty_are_skipped(tmp_path):
    (tmp_path / "a.csv").write_text("path,labels,,\nx,a,,,,\n,,,\n , \ny,b\n,,,,,,,\n")
    rows = [row for _, row in open_table(tmp_path / "a.csv", ("path",)).rows()]
    assert [(row["path"], row["labels"]) for row in rows] == [("x", "a"), ("y", "b")]


def test_columns_are_found_in_any_case_and_only_once(tmp_path):
    (tmp_path / "a.csv").write_text("Display Name,display-name,MID\nx,y,z\n")
    assert list(read_table(tmp_path / "a.csv", ("mid",))) == [
        (f"{tmp_path / 'a.csv'}, line 2", {"mid": "z"})
    ]
    with pytest.raises(InputError, match="has the columns Display Name, display-name; keep one"):
        list(read_table(tmp_path / "a.csv", ("display_name",)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "a.csv: the first line names no column 'path'"),
        (b"paths\n", "a.csv: the first line names no column 'path'; name path there"),
        (b"path,x,x\n", "a.csv: the first line names the column 'x' twice"),
        (b"path\na\n\xff\n", r"a.csv: not a CSV file in UTF-8 \(line 3: invalid start byte\)"),
        ("path\na\n".encode("utf-16"), r"a.csv: not a CSV file in UTF-8 \(line 1 "),
        (b"path\n" + b"x" * 2**20 + b"\n", r"a.csv: not a CSV file \(line 2 has more than 1 MiB"),
        (b"path\na\0b\n", r"a.csv: not a CSV file in UTF-8 \(line 2 has a NUL byte\)"),
        (b'path\n"a', r"a.csv: not a CSV file in UTF-8 \(line 2: unexpected end of data\)"),
        (b"path\ra\r", r"a.csv: not a CSV file in UTF-8 \(line 1: new-line"),
        (b"path\na\n" + b"x" * (csv.field_size_limit() + 1), r"\(line 3: field larger than"),
        (b"path\na,b\n", "a.csv, line 2: has 2 fields, the line of column names 1"),
        (b"path,x\n  ,1\n", "a.csv, line 2: path is empty"),
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


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.csv: cannot be read \(No such file"):
        list(read_table(tmp_path / "none.csv", ("path",)))
    with pytest.raises(InputError, match=r"cannot be read \(Is a directory\)"):
        list(read_table(tmp_path, ("path",)))
