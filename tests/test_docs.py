"""Runs the blocks of README.md and docs/ in folders that have what the pages assume.

Python blocks of a page run in order in one namespace. Commands of shell blocks run in this process,
`train` and `show` with a tiny model. `NOT_RUN` has the commands that are not run.
"""

import contextlib
import io
import re
import shutil
import subprocess
import sys
import tomllib

import jax
import numpy as np
import pytest
import soundfile
from flax import nnx

import ast_jax
from ast_jax import ASTConfig, ASTFeatureExtractor, ASTForAudioClassification
from ast_jax.cli.main import commands as commands_of_main
from ast_jax.cli.main import main
from ast_jax.labels import class_names

from .commands import parse_train, train_commands
from .documents import PAGES, ROOT, blocks, commands, page_text
from .raw_sets import write_audioset, write_clips, write_esc50, write_speech_commands

INSTALLS = "downloads from a package index; .ci/run installs"
DOWNLOADS = "downloads from the network"
BUCKET = "needs a bucket; tests/training/test_remote.py trains in one"
ACCELERATORS = "needs AudioSet, accelerators and memory for 192 clips; parsed"
CHECKS = ".ci/run runs it"
HEAR = "needs hearvalidator; tests/interfaces/test_hear.py runs it"
LIVE = "reads a live stream; tests/cli/test_stream.py has streams"

# The beginnings of the commands that are not run, and why.
NOT_RUN = {
    "pip install -e .": INSTALLS,
    "pip install -e '.[test]'": INSTALLS,
    "hf download MIT/ast-finetuned-audioset-10-10-0.4593": DOWNLOADS,
    "curl -L --create-dirs -o checkpoints/deit_base_distilled_patch16_384": DOWNLOADS,
    "curl -L http://download.tensorflow.org": DOWNLOADS,
    "tar xz -C SPEECH": DOWNLOADS,
    "mkdir SPEECH": DOWNLOADS,
    "git clone https://github.com/karolpiczak/ESC-50": DOWNLOADS,
    "gcloud storage cp --recursive prepared gs://BUCKET/": BUCKET,
    "ast-jax train esc50 --data.dir gs://BUCKET/prepared": BUCKET,
    "ast-jax classify SOUND.wav --checkpoint gs://BUCKET": BUCKET,
    "ast-jax train audioset_full --data.dir prepared --batch-size 192": ACCELERATORS,
    "hear-validator ast_jax.interfaces.hear": HEAR,
    "arecord": LIVE,
    "ffmpeg -i rtsp:": LIVE,
    "sox -d": LIVE,
    "ast-jax stream --checkpoint checkpoints/audioset --hop": LIVE,
    "ast-jax stream --format": LIVE,
    "pytest": "runs the tests",
    "ruff check .": CHECKS,
    "ruff format --check .": CHECKS,
    "mypy": CHECKS,
    "JAX_DISABLE_MOST_OPTIMIZATIONS=0 XLA_FLAGS= pytest tests/models": "runs the tests",
}

# Packages of which Python blocks are not run, and the tests that use them where they are installed.
OPTIONAL = {
    "mteb": "tests/interfaces/test_mteb.py",
    "perch_hoplite": "tests/interfaces/test_hoplite.py",
}

SIZE = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 1,
    "intermediate_size": 128,
    "frequency_stride": 16,
    "time_stride": 16,
}
TINY = {f"model.{name}": value for name, value in SIZE.items()}
TINY |= {"model.max_length": 48, "model.num_mel_bins": 32}
TINY |= {"augment.frequency_mask": 8, "augment.time_mask": 16}
TINY |= {"frontend.mean": -4.0, "frontend.std": 4.0}  # which processes would measure
SHORT = {"batch_size": 8, "num_epochs": 1, "optimizer.warmup_steps": 0, "data.workers": 0}
CHANGES = {
    "train": TINY | SHORT,
    "train demo": {"data.train_clips": 2, "data.evaluation_clips": 2},
    "train audioset_full": {"average_from": 1, "average_to": 1},
    "train audioset_balanced": {"average_from": 1, "average_to": 1},
    "show": TINY | {"batch_size": 8},
    "prepare": {"processes": 1},
    "stats": {"processes": 1},
}
SLOW = {"recipes.md", "variable_length.md"}  # with runs that train


def reason_not_run(command):
    return next((key for key in NOT_RUN if str(command).startswith(key)), None)


def needs_optional(code):
    """Returns whether a Python block imports a package that the tests do not have."""
    return re.search(rf"^(?:import|from) (?:{'|'.join(OPTIONAL)})\b", code, re.M)


def run_command(command):
    """Runs a command of a shell block with changes that make it take seconds."""
    program, arguments = command.words[0], command.arguments()
    if (program, arguments[0]) == ("python", "-c"):
        exec(arguments[1], {})
        return
    assert program == "ast-jax", f"{command}: is neither run nor in NOT_RUN"
    for name in (arguments[0], " ".join(arguments[:2])):
        for field, value in CHANGES.get(name, {}).items():
            arguments += [f"--{field.replace('_', '-')}", str(value)]
    with contextlib.ExitStack() as stack:
        if command.stdin:
            source = stack.enter_context(open(command.stdin, encoding="latin-1"))
            stack.enter_context(pytest.MonkeyPatch.context()).setattr("sys.stdin", source)
        if command.stdout:
            target = stack.enter_context(open(command.stdout, "w", encoding="utf-8"))
            stack.enter_context(contextlib.redirect_stdout(target))
        assert main(arguments) == 0, command


def run_page(page):
    """Runs the blocks of a page; returns the namespace of its Python blocks."""
    namespace = {"__name__": "page"}
    for block in blocks(page_text(page)):
        if block.language == "python" and needs_optional(block.code):
            compile(block.code, page.name, "exec")
        elif block.language == "python":
            exec(compile(block.code, page.name, "exec"), namespace)
        else:
            for command in commands(block.code):
                if not reason_not_run(command):
                    run_command(command)
    return namespace


def runs(page):
    """Returns whether a page has something to run."""
    return any(
        block.language == "python" or not all(map(reason_not_run, commands(block.code)))
        for block in blocks(page_text(page))
    )


@pytest.fixture(scope="module")
def assumed(tmp_path_factory, original_tensors, deit_tensors, save_torch):
    """Returns a folder with the sounds, checkpoints and data sets that the pages name."""
    folder, rng = tmp_path_factory.mktemp("assumed"), np.random.default_rng(0)
    names = dict(enumerate(class_names("audioset")))
    config = ASTConfig().replace(**SIZE, id2label=names, problem_type="multi_label_classification")
    model = ASTForAudioClassification(config, rngs=nnx.Rngs(0))
    for name in ("audioset", "ast-finetuned-audioset-10-10-0.4593"):
        model.save_pretrained(folder / "checkpoints" / name, ASTFeatureExtractor())
    config = config.replace(id2label={0: "dog", 1: "rain"}, max_length=48)
    model = ASTForAudioClassification(config, rngs=nnx.Rngs(0))
    model.save_pretrained(folder / "checkpoints" / "mine", ASTFeatureExtractor(max_length=48))
    deit = folder / "checkpoints" / "deit_base_distilled_patch16_384-d0272ac0.pth"
    save_torch(deit_tensors(), deit, wrap="model")
    save_torch(original_tensors(), folder / "audioset_10_10_0.4593.pth", prefix="module.")

    recording = ROOT.parent / "shared" / "data" / "esc10" / "audio" / "1-100032-A-0.ogg"
    sound = rng.uniform(-0.5, 0.5, 44100)
    if recording.exists():
        sound = ast_jax.load_audio(recording, 44100)
    for name in ("dog.wav", "new.wav"):
        soundfile.write(folder / name, sound, 44100)
    soundfile.write(folder / "long.wav", np.resize(sound, 25 * 44100), 44100)
    clips = [f"{label}/{i}" for label in ("dog", "rain") for i in range(8)]
    write_clips(folder / "SOUNDS", clips, rng)
    write_clips(folder / "UNSEEN", clips[::4], rng)
    splits = ["train", "train", "validation", "test"] * 4
    rows = [f"SOUNDS/{c}.wav,{c[:-2]},{s}" for c, s in zip(clips, splits, strict=True)]
    (folder / "clips.csv").write_text("\n".join(["path,labels,split", *rows]) + "\n")
    write_clips(folder / "EVENTS", clips, rng)
    rows = [f"{clip}.wav,0.1,0.2,{clip[:-2]}" for clip in clips]
    for name, part in (("events", rows), ("test", rows[::4])):
        text = "\n".join(["filename,start,end,label", *part])
        (folder / "EVENTS" / f"{name}.csv").write_text(text + "\n")
    write_audioset(folder / "AUDIOSET", rng)
    write_speech_commands(folder / "SPEECH", rng)
    for name in ("ESC-50", "ESC-50-master"):
        write_esc50(folder / name, rng)
    return folder


@pytest.fixture
def world(assumed, tmp_path, monkeypatch, no_plots):
    """Enters a copy of `assumed`; afterwards JAX has the settings of before."""
    folder = shutil.copytree(assumed, tmp_path / "world")
    monkeypatch.chdir(folder)
    precision = jax.config.jax_default_matmul_precision
    yield folder
    jax.config.update("jax_default_matmul_precision", precision)


@pytest.mark.filterwarnings("ignore:label.. is deprecated:DeprecationWarning")  # of TFDS
@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=page.stem, marks=[pytest.mark.slow] if page.name in SLOW else [])
        for page in PAGES
        if runs(page) and page.stem != "own_loop"
    ],
)
def test_blocks_of_the_page_run(page, world):
    run_page(page)


def test_loops_of_ones_own_learn_the_tones(world):
    page = run_page(ROOT / "docs" / "own_loop.md")
    assert page["result"].scores.mean_average_precision > 0.9
    for losses in (page["losses"], page["dict_losses"]):
        assert np.mean(losses[-5:]) < 0.3 * np.mean(losses[:5])
    assert ast_jax.load("tones").labels == ["low", "high"]


def test_every_command_that_is_not_run_is_in_a_page_and_parses(capsys):
    shell = [b for page in PAGES for b in blocks(page_text(page)) if b.language == "sh"]
    found = [command for block in shell for command in commands(block.code)]
    assert {reason_not_run(command) for command in found} - {None} == set(NOT_RUN)
    assert all((ROOT / path).exists() for path in OPTIONAL.values())
    for command in filter(reason_not_run, found):
        if command.words[:2] == ["ast-jax", "train"]:
            parse_train(command.words[2:], capsys)


@pytest.fixture(scope="module")
def options():
    """Returns the options of all commands."""
    found = {"--help", "--version", "--append"}  # the last is of scripts in benchmarks/
    # With the fields of each kind of data.
    configs = ("train finetune", "train esc50", "train sound_events", "show esc10")
    for command in (*configs, *(commands_of_main([]).keys() - {"train", "show"})):
        screen = io.StringIO()
        with contextlib.redirect_stdout(screen), pytest.raises(SystemExit):
            main([*command.split(), "--help"])
        found.update(re.findall(r"--[a-z][\w.-]*", screen.getvalue()))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_pages_name_what_exists(page, options, capsys):
    text = page_text(page)
    assert {block.language for block in blocks(text)} <= {"sh", "python"}
    assert text.count("\n```") == 2 * len(blocks(text)), "an indented or unclosed block"
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    for command in train_commands(prose):
        if "--help" not in command:
            parse_train(command or ["demo"], capsys)
    for code in re.findall(r"(?<!`)`(ast-jax [^`]+|--[^`]+)`(?!`)", prose):
        named = {name.replace("_", "-") for name in re.findall(r"(?<!\S)--[a-z][\w.-]*", code)}
        assert named <= options, code
    for file in re.findall(r"configs/\w+\.py", text):
        assert (ROOT / file).exists(), file
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for names in re.findall(r"'(?:\.|ast-jax)\[([\w,]+)\]'", text):
        assert set(names.split(",")) <= set(project["optional-dependencies"])
    if page.name == "README.md":  # mkdocs checks those of the others
        for link in re.findall(r"\]\((?!http)([^)#]+)", text):
            assert (ROOT / link).exists(), link


def test_the_site_builds_without_warnings(tmp_path):
    for package in ("mkdocs", "material", "mkdocstrings"):
        pytest.importorskip(package)
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert 'id="ast_jax.fit"' in (tmp_path / "site" / "api" / "index.html").read_text()
