import io

import pytest

from ast_jax.cli.reading_bar import ReadingBar


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("stderr", "is_shown"), [(Terminal(), True), (Terminal(), False), (io.StringIO(), True)]
)
def test_a_terminal_that_does_not_show_the_results_shows_the_time(monkeypatch, stderr, is_shown):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("sys.stderr", stderr)
    with ReadingBar(2, is_shown=is_shown) as bar:
        for name, seconds in (("a\n.wav", 7200), ("x" * 99, None)):
            bar.start(name, seconds)
            bar.update(3661)
            bar.progress.refresh()
    text = stderr.getvalue()
    if is_shown and stderr.isatty():
        for part in (r"1/2 a\n.wav", "2/2 …xxxxx", "1:01:01, "):
            assert part in text
    else:
        assert text == ""
