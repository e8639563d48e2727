import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from matplotlib import image

import ast_jax
from ast_jax.cli.main import main
from ast_jax.config import PreparedData
from ast_jax.config_files import load_config
from ast_jax.data.prepared import open_prepared, read_prepared
from ast_jax.errors import InputError
from ast_jax.training.loop import fit

DEMO = Path(__file__).parent.parent.parent / "configs" / "demo.py"


def test_prepare_prints_what_it_wrote_and_skipped(source, tmp_path, capsys):
    arguments = ["folder", "--source", source, "--output", tmp_path, "--processes", 1]
    assert main(["prepare", *map(str, arguments)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "broken.wav" in line
    assert line.endswith("--max-damaged is 0 and 1 cannot be used")
    assert not list(tmp_path.glob("*/1*"))
    assert main(["prepare", *map(str, arguments), "--max-damaged", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    counts = [re.fullmatch(r"(train|test): (\d+) clips", line) for line in lines[:2]]
    assert sum(int(match[2]) for match in counts) == 12
    assert "broken.wav" in lines[2]
    assert lines[3] == "2 classes and their clips: bark (6), meow (6)"
    assert lines[4].startswith(f"wrote {tmp_path / 'folder' / '1.0.0'}, of digest ")
    assert main(["prepare", *map(str, arguments)]) == 1
    assert "exists; remove it or choose another --output" in capsys.readouterr().err


def test_prepare_reads_a_list_as_people_write_them(source, tmp_path, capsys):
    rows = [
        "sep=;",
        "Recording;Start;End;Tags",
        *(f"{source}/bark/{i}.wav;0;0.5;Bark,Dog" for i in range(2)),
        f"{source}/meow/0.wav;0.25;1;",
        f"{source}/meow/1.wav;;;dog",
        f"{source}/none.wav;0;1;Dog",
        ";;;",
    ]
    (tmp_path / "clips.csv").write_text("\ufeff" + "\r\n".join(rows))
    command = ["prepare", "csv", "--source", str(tmp_path), "--output", str(tmp_path / "out")]
    assert main([*command, "--processes=1", "--column=path=recording", "--label-separator=,"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "train: 4 clips"
    assert "3 classes and their clips: Bark (2), Dog (2), dog (1)" in lines
    printed = "\n".join(lines)
    for part in (
        "1 clips missing, listed in skipped.csv",
        "classes differ in case alone: 'Dog' and 'dog'",
        "reads path from 'Recording', labels from 'Tags', start from 'Start'",
        "cuts clips from Start to End, in seconds",
        "1 clips have no label",
    ):
        assert part in printed
    prepared = open_prepared(tmp_path / "out")
    assert prepared.clips("train").lengths() == [8000, 8000, 12000, 16000]


@pytest.mark.parametrize("column", ["path", "path=a", ""])
def test_a_column_is_given_once_with_its_name(tmp_path, capsys, column):
    command = ["prepare", "csv", "--source", str(tmp_path), "--output", str(tmp_path / "out")]
    assert main([*command, f"--column={column}", "--column=path=b"]) == 1
    assert "give what the column is, once, and its name" in capsys.readouterr().err


def test_stats_prints_a_table_and_training_uses_its_values(prepared, capsys):
    arguments = [str(prepared), "--num-mel-bins", "32", "--processes", "1"]
    assert main(["stats", *arguments]) == 0
    printed = capsys.readouterr().out
    mean = float(re.search(r"log-mel mean\W+(-\d+\.\d{7})", printed)[1])
    assert re.search(r"classes\W+2, 0 of them without clips", printed)
    data = read_prepared(open_prepared(prepared), 16000, "", "", 1)
    assert data.statistics[32][0] == pytest.approx(mean, abs=1e-6)
    assert main(["stats", *arguments, "--padded-to", "100"]) == 0
    padded = re.search(r"--frontend.mean=(-\d+\.\d{7})", capsys.readouterr().out)[1]
    assert float(padded) > mean  # half of each input is zeros


def test_stats_measure_the_training_split_of_three(source, tmp_path, capsys):
    splits = ["train", "validation", "test"]
    rows = [f"{source}/bark/{i}.wav,bark,{split}" for i, split in enumerate(splits)]
    (tmp_path / "clips.csv").write_text("\n".join(["path,labels,split", *rows]))
    output = tmp_path / "prepared"
    arguments = ["csv", "--source", str(tmp_path), "--output", str(output), "--processes", "1"]
    assert main(["prepare", *arguments]) == 0
    assert main(["stats", str(output), "--num-mel-bins", "32", "--processes", "1"]) == 0
    printed = capsys.readouterr().out
    assert "csv, train" in printed
    assert re.search(r"clips\W+1\b", printed)


def test_show_draws_a_batch_of_a_prepared_set(prepared, tmp_path, capsys):
    config = str(DEMO)
    changes = ["--data.kind", "prepared", "--data.dir", str(prepared), "--batch-size", "4"]
    assert main(["show", config, *changes, "--output", str(tmp_path / "a.png")]) == 0
    assert image.imread(tmp_path / "a.png").shape[0] > 400
    assert main(["show", config, "--output", str(tmp_path / "b.jpg")]) == 1
    assert "let it end in .png" in capsys.readouterr().err


# A run whose batches worker processes make.
RUN = """
import sys

from ast_jax.cli.main import main

if __name__ == "__main__":
    status = main(["train", *sys.argv[1:]])
    sys.exit("tensorflow was imported" if "tensorflow" in sys.modules else status)
"""


def test_a_run_with_workers_and_the_device_frontend_does_not_import_tensorflow(prepared, tmp_path):
    script, workdir = tmp_path / "script.py", tmp_path / "run"
    script.write_text(RUN)
    fields = [
        *("--data.kind=prepared", f"--data.dir={prepared}", "--data.train=train"),
        *("--data.workers=1", "--data.balanced", "--frontend.on-device", "--augment.mixup=0.5"),
        *("--optimizer.warmup-steps=0", "--batch-size=8", "--num-epochs=2"),
        f"--workdir={workdir}",
    ]
    environment = os.environ | {"PYTHONPATH": str(DEMO.parents[1]), "JAX_NUM_CPU_DEVICES": "1"}
    command = [sys.executable, script, DEMO, *fields]
    ran = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=400, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert ast_jax.load(workdir).labels == ["bark", "meow"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "esc50"}, "does not contain a prepared set 'esc50'"),
        (
            {"digest": "0" * 64},
            r"has the source digest \w{64} and data\.digest is 0{64}; give the set",
        ),
        ({"train": "balanced"}, "has no split 'balanced'; it has train, test"),
        ({"evaluation": "train"}, "no split may be in both"),
    ],
)
def test_a_set_that_does_not_fit_the_configuration_is_refused_before_training(
    prepared, tmp_path, change, message
):
    config = load_config(DEMO)
    config.workdir = str(tmp_path / "run")
    config.data = PreparedData(dir=str(prepared), **change)
    config.batch_size = 8
    with pytest.raises(InputError, match=message):
        fit(config)
    assert not list(tmp_path.iterdir())
