"""The modules of the package import each other in permitted directions and without cycles.

A room is a top-level module or folder of `ast_jax`. Imports are read from the source, at module
level and within functions. Those under TYPE_CHECKING count too: an annotation of a type is a
dependency for the reader. Importing a module also runs the `__init__` of its folder; that is not
counted.

One test runs a fresh interpreter: a process that decodes sounds does not load JAX.
"""

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import resolve_name
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import soundfile

ROOT = Path(__file__).parents[1]

BASICS = ("errors", "io", "labels", "npz", "thresholds", "urls")

# What the modules of each room may import beside those of their own room: rooms, or single modules.
# A row names only rooms of the rows above it, so there is no cycle of rooms. 'ast_jax' is the
# package's `__init__`, which has the version and may import everything.
PERMITTED = {
    "errors": (),
    "fields": ("errors",),
    "io": ("errors",),
    "labels": ("errors",),
    "npz": ("errors",),
    "thresholds": ("errors", "fields", "io"),
    "losses": (),
    "sharding": ("errors",),
    "multihost": ("errors",),
    "urls": ("errors",),
    "storage": ("errors", "io", "urls"),
    "audio": ("errors", "fields", "io", "urls"),
    "fonts": (),
    "figures": ("io", "audio", "fonts"),
    "models": ("errors", "fields", "io", "urls"),
    "columns": ("audio", "models.config"),
    "config": ("errors", "fields", "models.config"),
    "config_files": ("errors", "fields", "io", "config"),
    "checkpoint": (*BASICS, "storage", "audio", "models"),
    "data": (*BASICS, "storage", "audio", "columns", "config"),
    "evaluation": (
        *BASICS, "losses", "sharding", "storage", "audio", "figures", "models", "columns", "config",
        "config_files", "checkpoint", "data",
    ),
    "runs": (
        *BASICS, "ast_jax", "multihost", "storage", "audio", "fonts", "figures", "config",
        "config_files", "checkpoint", "data", "evaluation",
    ),
    "training": (
        *BASICS, "losses", "sharding", "multihost", "storage", "audio", "fonts", "models", "config",
        "checkpoint", "data", "evaluation", "runs",
    ),
    "inference": (
        *BASICS, "fields", "audio", "fonts", "figures", "models", "columns", "checkpoint",
    ),
    "interfaces": ("errors", "audio", "columns", "checkpoint", "inference"),
    "cli": (
        *BASICS, "ast_jax", "losses", "sharding", "audio", "models", "columns", "config", "fields",
        "config_files", "checkpoint", "data", "evaluation", "runs", "training", "inference",
    ),
    "__main__": ("cli",),
}  # fmt: skip

# (importer, function, imported room): `from_pretrained` and `save_pretrained` of these classes read
# and write a checkpoint, and `checkpoint` imports the classes. This is the only cycle.
EXCEPTIONS = {
    ("audio.feature_extractor", "from_pretrained", "checkpoint"),
    ("models.config", "from_pretrained", "checkpoint"),
    ("models.ast", "from_pretrained", "checkpoint"),
    ("models.ast", "save_pretrained", "checkpoint"),
    ("models.frame_classification", "from_pretrained", "checkpoint"),
}


class Import(NamedTuple):
    """An import of one module of the package by another, both without the leading 'ast_jax.'.

    `function` is the innermost function that has the import; '' at module level.
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
    """Returns the imports between the modules of a package, except those of its own `__init__`."""
    files = {}
    for file in sorted(package.rglob("*.py")):
        parts = file.relative_to(package.parent).with_suffix("").parts
        files[".".join(part for part in parts if part != "__init__")] = file
    del files[package.name]
    modules = {package.name, *files}
    imports = []
    for importer, file in files.items():
        folder = importer if file.stem == "__init__" else importer.rpartition(".")[0]
        for node, function in import_statements(ast.parse(file.read_text())):
            for imported in imported_modules(node, folder, modules):
                names = (name.removeprefix(f"{package.name}.") for name in (importer, imported))
                imports.append(Import(*names, function, node.lineno))
    return imports


def import_statements(
    tree: ast.AST, function: str = ""
) -> Iterator[tuple[ast.Import | ast.ImportFrom, str]]:
    """Yields the import statements of a syntax tree, each with its innermost function."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node, function
        is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        yield from import_statements(node, node.name if is_function else function)


def imported_modules(
    node: ast.Import | ast.ImportFrom, folder: str, modules: set[str]
) -> Iterator[str]:
    """Yields those of `modules` that a statement in a module of the package `folder` imports.

    `from a import b` imports the module a.b if it exists, and otherwise a.
    """
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if alias.name in modules)
    else:
        source = resolve_name("." * node.level + (node.module or ""), folder)
        for alias in node.names:
            name = f"{source}.{alias.name}"
            yield from [each for each in (name, source) if each in modules][:1]


def find_cycle(imports: list[Import]) -> list[str]:
    """Returns the modules of an import cycle, the first one again at the end; [] for no cycle."""
    graph: dict[str, set[str]] = {}
    for importer, imported, *_ in imports:
        graph.setdefault(importer, set()).add(imported)
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return error.args[1][::-1]
    return []


def find_faults(imports: list[Import]) -> list[str]:
    """Returns a line for each import that is not permitted, and a line for a cycle."""
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
    if cycle := find_cycle(checked):
        faults.append(f"cycle: {' → '.join(cycle)}")
    return faults


def test_all_imports_are_permitted_and_free_of_cycles():
    assert find_faults(read_imports(ROOT / "ast_jax")) == []


def test_the_table_has_every_room_and_names_only_rooms_above():
    package = ROOT / "ast_jax"
    files = [file.relative_to(package) for file in package.rglob("*.py")]
    assert {file.parts[0].removesuffix(".py") for file in files} - {"__init__"} == set(PERMITTED)
    above = {"ast_jax"}
    for name, allowed in PERMITTED.items():
        assert {room(each) for each in allowed} <= above
        above.add(name)


def test_every_exception_is_in_use():
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
            ["cycle: data.a → data.b → data.a"],
        ),
        (
            {
                "data/a.py": "from . import b",
                "data/b.py": "import ast_jax.data.c",
                "data/c.py": "def f():\n  from .a import g",
            },
            ["cycle: data.a → data.b → data.c → data.a"],
        ),
        ({"models/ast.py": f"class A:\n  def from_pretrained(c):\n    {LOADS}"}, []),
        ({"models/ast.py": LOADS}, ["imports checkpoint.load", "cycle"]),
        ({"models/ast.py": f"def other():\n  {LOADS}"}, ["imports checkpoint.load", "cycle"]),
        ({"models/layers.py": f"def from_pretrained():\n  {LOADS}"}, ["imports checkpoint.load"]),
    ],
)
def test_the_check_finds_faults(tmp_path, files, faults):
    """Adds modules to a small package and checks their imports."""
    whole = {
        "__init__.py": "from ast_jax.models.ast import ASTModel",
        "audio/decode.py": "",
        "models/__init__.py": "",
        "models/ast.py": "",
        "models/config.py": "",
        "checkpoint/load.py": "from ast_jax.models.ast import ASTModel",
        "cli/__init__.py": "",
        "config.py": "import io, numpy.random\nfrom collections import abc",
        "io.py": "import io",
    } | files
    for name, text in whole.items():
        file = tmp_path / "ast_jax" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    found = find_faults(read_imports(tmp_path / "ast_jax"))
    assert len(found) == len(faults)
    for line, fault in zip(found, faults, strict=True):
        assert fault in line


# The script that pip installs as `ast-jax`. A spawned process runs it first, as `__mp_main__`.
COMMAND = """
import sys

class Hook:
    def find_spec(self, name, path=None, target=None):
        if name in {names}:
            print("loads", name, flush=True)

if __name__ == "__mp_main__":
    sys.meta_path.insert(0, Hook())

from ast_jax.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
"""


def test_a_decoding_process_does_not_load_jax(tmp_path):
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
    # soundfile decodes: the hook reports it, so the hook works.
    loaded = {line for line in ran.stdout.splitlines() if line.startswith("loads")}
    assert loaded == {"loads soundfile"}
