"""Reads the code blocks of documents, and the commands of shell blocks."""

import glob
import re
import shlex
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


class Block(NamedTuple):
    language: str
    code: str


class Command(NamedTuple):
    """A command of a shell block, with globs as they are written; '' for no redirection."""

    words: list[str]
    stdin: str = ""
    stdout: str = ""

    def __str__(self):
        return shlex.join(self.words)

    def arguments(self):
        """Returns the words after the first, with the globs that match replaced by the files."""
        return [each for word in self.words[1:] for each in sorted(glob.glob(word)) or [word]]


def page_text(page):
    """Returns a page, with the files that it includes."""
    text = page.read_text(encoding="utf-8")
    return re.sub(r'^--8<-- "(.*)"$', lambda found: (ROOT / found[1]).read_text(), text, flags=re.M)


def blocks(text):
    """Returns the fenced blocks of a page in order."""
    return [Block(*found) for found in re.findall(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S)]


def commands(code):
    """Returns the commands of a shell block in order; loops are unrolled."""
    code = re.sub(r"^for (\w+) in ([^;]*); do\n(.*?)^done$", _unroll, code, flags=re.M | re.S)
    found = []
    for line in code.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="&|<>;")
        lexer.whitespace_split = True
        words, redirections = [], {}
        rest = iter([*lexer, "&&"])
        for word in rest:
            if word in ("&&", "|"):
                found += [Command(words, **redirections)] if words else []
                words, redirections = [], {}
            elif word in ("<", ">"):
                redirections["stdin" if word == "<" else "stdout"] = next(rest)
            else:
                words.append(word)
    return found


def _unroll(loop):
    variable, values, body = loop.groups()
    return "".join(body.replace(f"${variable}", value) for value in values.split())
