"""The imports of the package: no circle, and only the arrows that `PERMITTED` has.

They are read from the source: those of a module, those within its functions, and those under
TYPE_CHECKING, as a module that names a type of another is read with that other one beside it.
Running a folder's `__init__` on the way to a module in it is no arrow.

Two tests in a fresh interpreter show what the arrows are for: a process that decodes sounds, and
the command line's help, load none of the libraries that they do not need.
"""

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import soundfile

ROOT = Path(__file__).parents[1]

BASICS = ("errors", "io", "labels")

# The rooms of the package, and what a module of each may import beside its own room: rooms, or
# single modules. A row names only rooms of rows above it, so no arrows close a circle of rooms.
# 'ast_jax' is the package itself, for its version; its `__init__` may name everything.
PERMITTED = {
    "errors": (),
    "io": ("errors",),
    "labels": ("errors",),
    "losses": (),
    "sharding": ("errors",),
    "audio": ("errors", "io"),
    "models": ("errors", "io"),
    "config": ("errors", "labels", "losses", "models.config"),
    "checkpoint": (*BASICS, "audio", "models"),
    "data": (*BASICS, "audio", "config"),
    "evaluation": (*BASICS, "losses", "sharding", "audio", "models", "checkpoint", "data"),
    "runs": (*BASICS, "ast_jax", "audio", "config", "checkpoint", "data", "evaluation"),
    "training": (
        *BASICS, "losses", "sharding", "audio", "models", "config", "checkpoint", "data",
        "evaluation", "runs",
    ),
    "inference": (*BASICS, "audio", "models", "checkpoint"),
    "cli": (
        *BASICS, "ast_jax", "losses", "sharding", "audio", "models", "config", "checkpoint", "data",
        "evaluation", "runs", "training", "inference",
    ),
}  # fmt: skip

# The one circle: these methods read a checkpoint, which knows both classes. (importer, function,
# room)
EXCEPTIONS = {
    ("audio.feature_extractor", "from_pretrained", "checkpoint"),
    ("models.ast", "from_pretrained", "checkpoint"),
}


class Import(NamedTuple):
    """An import of one module of the package by another; names lack the leading 'ast_jax.'.

    `function` is the innermost function that it is in, or ''.
    """

    importer: str
    imported: str
    function: str
    line: int

    def is_exception(self) -> bool:
        return (self.importer, self.function, room(self.imported)) in EXCEPTIONS


def room(module: str) -> str:
    return module.partition(".")[0]


def read_imports(package: Path) -> list[Import]:
    """All imports between the modules of a package, but for those of its own `__init__`."""
    files = {}
    for file in sorted(package.rglob("*.py")):
        parts = file.relative_to(package).with_suffix("").parts
        files[".".join(part for part in parts if part != "__init__") or package.name] = file
    imports = []
    for importer, file in files.items():
        if importer == package.name:
            continue
        folder = [package.name, *file.relative_to(package).parts[:-1]]
        for node, function in import_statements(ast.parse(file.read_text())):
            for name, alternative in imported_names(node, folder):
                for full in (name, alternative):
                    module = full.removeprefix(f"{package.name}.")
                    if module in files:
                        imports.append(Import(importer, module, function, node.lineno))
                        break
    return imports


def import_statements(
    tree: ast.AST, function: str = ""
) -> Iterator[tuple[ast.Import | ast.ImportFrom, str]]:
    """The import statements of a syntax tree, each with the innermost function that it is in."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node, function
        is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        yield from import_statements(node, node.name if is_function else function)


def imported_names(
    node: ast.Import | ast.ImportFrom, folder: list[str]
) -> Iterator[tuple[str, str]]:
    """For each name that is imported, the module that it is, or else the one that it is in."""
    for alias in node.names:
        if isinstance(node, ast.Import):
            yield alias.name, ""
        else:
            base = folder[: len(folder) + 1 - node.level] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            yield f"{source}.{alias.name}", source


def find_circle(imports: list[Import]) -> list[str]:
    """Modules that import each other, from one to itself; [] if there are none."""
    graph: dict[str, set[str]] = {}
    for importer, imported, *_ in imports:
        graph.setdefault(importer, set()).add(imported)
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return error.args[1][::-1]
    return []


def find_faults(imports: list[Import]) -> list[str]:
    """A line for each arrow that is not permitted, and one for a circle."""
    checked = [each for each in imports if not each.is_exception()]
    faults = [
        f"{each.importer}, line {each.line}: imports {each.imported}"
        for each in checked
        if room(each.importer) != room(each.imported)
        and not any(
            f"{each.imported}.".startswith(f"{allowed}.")
            for allowed in PERMITTED.get(room(each.importer), ())
        )
    ]
    if circle := find_circle(checked):
        faults.append(f"circle: {' → '.join(circle)}")
    return faults


def test_every_import_of_the_package_is_permitted_and_none_closes_a_circle():
    assert find_faults(read_imports(ROOT / "ast_jax")) == []


def test_the_table_has_every_room_and_only_arrows_to_those_above():
    package = ROOT / "ast_jax"
    files = [file.relative_to(package) for file in package.rglob("*.py")]
    assert {file.parts[0].removesuffix(".py") for file in files} - {"__init__"} == set(PERMITTED)
    above = {"ast_jax"}
    for name, allowed in PERMITTED.items():
        assert {room(each) for each in allowed} <= above
        above.add(name)


def test_no_exception_is_out_of_use():
    imports = read_imports(ROOT / "ast_jax")
    used = {(i.importer, i.function, room(i.imported)) for i in imports if i.is_exception()}
    assert used == EXCEPTIONS


LOADS = "from ast_jax.checkpoint.load import load"


@pytest.mark.parametrize(
    ("files", "faults"),
    [
        ({"data/clips.py": "from ast_jax.audio.decode import load_audio"}, []),
        ({"data/clips.py": "from ast_jax.models.ast import ASTModel"}, ["imports models.ast"]),
        ({"data/clips.py": "import ast_jax.models.ast as m"}, ["imports models.ast"]),
        ({"data/clips.py": "from ast_jax.models import ast"}, ["imports models.ast"]),
        ({"data/clips.py": "from ..models import ast"}, ["imports models.ast"]),
        ({"data/a/__init__.py": "from ...models.ast import ASTModel"}, ["imports models.ast"]),
        ({"data/a/b.py": "from ... import config, models"}, ["imports models"]),
        ({"data/clips.py": "import ast_jax"}, ["imports ast_jax"]),
        ({"runs/log.py": "from ast_jax import __version__"}, []),
        ({"config.py": "from ast_jax.models.config import ASTConfig"}, []),
        ({"config.py": "from ast_jax.models.ast import ASTModel"}, ["imports models.ast"]),
        ({"training/a.py": "import ast_jax.cli"}, ["imports cli"]),
        (
            {"data/clips.py": "class A:\n  def f(self):\n    if self: import ast_jax.models"},
            ["data.clips, line 3: imports models"],
        ),
        (
            {"data/clips.py": "if TYPE_CHECKING:\n  from ast_jax.models.ast import ASTModel"},
            ["imports models.ast"],
        ),
        (
            {"data/a.py": "import ast_jax.data.b", "data/b.py": "from ast_jax.data import a"},
            ["circle: data.a → data.b → data.a"],
        ),
        (
            {
                "data/a.py": "from . import b",
                "data/b.py": "import ast_jax.data.c",
                "data/c.py": "def f():\n  from .a import g",
            },
            ["circle: data.a → data.b → data.c → data.a"],
        ),
        ({"models/ast.py": f"class A:\n  def from_pretrained(c):\n    {LOADS}"}, []),
        ({"models/ast.py": LOADS}, ["imports checkpoint.load", "circle"]),
        ({"models/ast.py": f"def other():\n  {LOADS}"}, ["imports checkpoint.load", "circle"]),
        ({"models/layers.py": f"def from_pretrained():\n  {LOADS}"}, ["imports checkpoint.load"]),
    ],
)
def test_the_check_finds_faults(tmp_path, files, faults):
    """In a package made up of one, two or three modules beside these."""
    whole = {
        "__init__.py": "from ast_jax.models.ast import ASTModel",
        "audio/decode.py": "",
        "models/__init__.py": "",
        "models/ast.py": "",
        "models/config.py": "",
        "checkpoint/load.py": "from ast_jax.models.ast import ASTModel",
        "cli/__init__.py": "",
        "config.py": "import os, numpy.random\nfrom collections import abc",
    } | files
    for name, text in whole.items():
        file = tmp_path / "ast_jax" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    found = find_faults(read_imports(tmp_path / "ast_jax"))
    assert len(found) == len(faults)
    for line, fault in zip(found, faults, strict=True):
        assert fault in line


# As the `ast-jax` that pip installs, which every process that the command starts runs first.
COMMAND = """
import sys

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name in {names}:
            print("loads", name, flush=True)

if __name__ == "__mp_main__":
    sys.meta_path.insert(0, Watch())

from ast_jax.cli import main

if __name__ == "__main__":
    sys.exit(main())
"""


def test_a_process_that_decodes_loads_no_jax(tmp_path):
    unwanted = ("jax", "jaxlib", "flax", "orbax", "tensorstore", "torch", "librosa")
    lines = ["path,labels"]
    for i in range(2):
        soundfile.write(tmp_path / f"{i}.wav", np.zeros(8000), 16000)
        lines.append(f"{i}.wav,silence")
    (tmp_path / "list.csv").write_text("\n".join(lines))
    (tmp_path / "ast-jax").write_text(COMMAND.format(names=(*unwanted, "soundfile")))
    command = [sys.executable, "ast-jax", "prepare", "csv", "--source=.", "--output=prepared"]
    ran = subprocess.run(
        [*command, "--processes=2"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "train: 2 clips" in ran.stdout
    # What decodes is loaded, which shows that the watch was kept.
    loaded = {line for line in ran.stdout.splitlines() if line.startswith("loads")}
    assert loaded == {"loads soundfile"}


def test_help_loads_no_heavy_library():
    code = """
import sys
from ast_jax.cli import main
try:
    main(["--help"])
except SystemExit:
    print(sorted({"jax", "flax", "tensorflow", "torch", "librosa"} & set(sys.modules)))
"""
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert ran.stdout.splitlines()[-1] == "[]"
