"""Files that the lists of several tests name."""

import pytest

CLASSES = 'index,mid,display_name\n0,/m/s,"Speech"\n1,/m/m,"Male speech, man"\n2,/m/d,Dog\n'


@pytest.fixture
def folder(tmp_path):
    """Returns a folder with two empty sound files and a class list."""
    for name in ("a.wav", "sub/b.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "classes.csv").write_text(CLASSES)
    return tmp_path
