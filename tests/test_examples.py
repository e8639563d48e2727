"""The examples of `examples/` parse, with flags and files that exist; none is run on a cluster."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from .commands import parse_train, train_commands

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").iterdir())
SCRIPTS = [file for file in EXAMPLES if file.suffix in (".sh", ".sbatch")]


@pytest.mark.parametrize("file", SCRIPTS, ids=lambda file: file.name)
def test_scripts_parse(file):
    subprocess.run(["bash", "-n", file], check=True)


@pytest.mark.parametrize(
    "file", [file for file in EXAMPLES if file.name != "Dockerfile"], ids=lambda file: file.name
)
def test_training_commands_are_valid(file, capsys):
    text = file.read_text()
    if file.suffix == ".yaml":
        (arguments,) = re.findall(r"args:\n((?: +- \S+\n)+)", text)
        arguments = re.findall(r"- (\S+)", arguments)
    else:
        (arguments,) = train_commands(text.replace('"\n', "\n"))
    assert "--distributed" in arguments
    assert parse_train(arguments, capsys).data.workers == 4


def test_the_manifest_has_a_pod_for_each_host_of_the_slice():
    manifest = yaml.safe_load((ROOT / "examples" / "gke_jobset.yaml").read_text())
    (job,) = manifest["spec"]["replicatedJobs"]
    pods = job["template"]["spec"]
    pod = pods["template"]["spec"]
    (container,) = pod["containers"]
    rows, columns = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x")
    chips = container["resources"]["limits"]["google.com/tpu"]
    assert pods["parallelism"] == pods["completions"] == int(rows) * int(columns) / chips
    assert {each["name"] for each in container["volumeMounts"]} == {
        each["name"] for each in pod["volumes"]
    }


def test_the_image_copies_files_that_exist_and_installs_extras_that_exist():
    text = (ROOT / "examples" / "Dockerfile").read_text()
    lines = [line for line in text.splitlines() if line and line[0] != "#"]
    instructions = [line.split()[0] for line in lines]
    assert instructions[0] == "FROM"
    assert set(instructions) <= {"FROM", "ARG", "WORKDIR", "COPY", "RUN", "ENTRYPOINT"}
    for line in lines:
        if line.startswith("COPY"):
            assert all((ROOT / name).exists() for name in line.split()[1:-1])
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = re.search(r"EXTRA is (\w+) or (\w+), or empty", text).groups()
    assert set(named) <= extras["optional-dependencies"].keys()
    python = re.search(r"FROM python:(\S+)-slim", text)[1]
    assert tuple(map(int, python.split("."))) >= (3, 11)
