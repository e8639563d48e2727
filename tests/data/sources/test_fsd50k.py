import pytest

from ast_jax.data.sources.fsd50k import list_fsd50k
from ast_jax.data.sources.manifest import Example
from ast_jax.errors import InputError


@pytest.fixture
def fsd(tmp_path):
    """Returns a small FSD50K: a clip in each split, and one that is missing."""
    folder = tmp_path / "FSD50K.ground_truth"
    folder.mkdir()
    (folder / "vocabulary.csv").write_text("0,Bark,/m/b\n1,Chirp_and_tweet,/m/c\n")
    (folder / "dev.csv").write_text(
        "fname,labels,mids,split\n"
        '64760,"Chirp_and_tweet,Bark","/m/c,/m/b",train\n'
        "16399,Bark,/m/b,val\n1,Bark,/m/b,val\n"
    )
    (folder / "eval.csv").write_text("fname,labels,mids\n37199,Bark,/m/b\n")
    for name in ("dev_audio/64760", "dev_audio/16399", "eval_audio/37199"):
        file = tmp_path / f"FSD50K.{name}.wav"
        file.parent.mkdir(exist_ok=True)
        file.touch()
    return tmp_path


def test_ground_truth_is_read_as_it_comes(fsd):
    manifest = list_fsd50k(fsd)
    assert manifest.labels == ["Bark", "Chirp_and_tweet"]
    path = str(fsd / "FSD50K.dev_audio" / "64760.wav")
    assert manifest.splits["train"] == [Example("64760", path, (0, 1))]
    assert {split: clips[0].id for split, clips in manifest.splits.items()} == {
        "train": "64760",
        "val": "16399",
        "eval": "37199",
    }
    (missing,) = manifest.missing
    assert "dev.csv, line 4: " in missing


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("vocabulary.csv", "0,Bark,/m/b\n2,Chirp,/m/c\n", r"vocabulary\.csv, line 2: is not 1, a"),
        ("vocabulary.csv", "0,Bark,/m/b\n", r"dev\.csv, line 2: label 'Chirp_and_tweet' is not in"),
        ("vocabulary.csv", "", "lists no classes"),
        ("eval.csv", "fname,labels,mids\n16399,Bark,/m/b\n", r"eval\.csv, line 2: '16399' is in"),
        ("dev.csv", "fname,labels\n", "names no column 'split'"),
    ],
)
def test_a_list_that_is_not_the_published_one_is_refused(fsd, file, content, message):
    (fsd / "FSD50K.ground_truth" / file).write_text(content)
    with pytest.raises(InputError, match=message):
        list_fsd50k(fsd)
