import pytest

from ast_jax.data.sources.speech_commands import list_speech_commands
from ast_jax.errors import InputError
from ast_jax.labels import class_names


@pytest.fixture
def archive(tmp_path):
    for word in ("yes", "backward", "_background_noise_", ".cache"):
        (tmp_path / word).mkdir()
        for i in range(4):
            (tmp_path / word / f"{i}_nohash_0.wav").touch()
    (tmp_path / "yes" / "notes.txt").touch()
    (tmp_path / "LICENSE").touch()
    write_lists(tmp_path, "yes/2_nohash_0.wav\n", "yes/0_nohash_0.wav\nbackward/3_nohash_0.wav\n")
    return tmp_path


def write_lists(folder, validation, testing):
    (folder / "validation_list.txt").write_text(validation, newline="")
    (folder / "testing_list.txt").write_text(testing, newline="")


def test_unlisted_clips_are_for_training_and_classes_in_the_published_order(archive):
    manifest = list_speech_commands(archive, None)
    assert tuple(manifest.labels) == class_names("speech_commands_v2_35")
    index = {word: manifest.labels.index(word) for word in ("yes", "backward")}
    assert {split: [clip.id for clip in clips] for split, clips in manifest.splits.items()} == {
        "train": [
            *(f"backward/{i}_nohash_0.wav" for i in range(3)),
            *(f"yes/{i}_nohash_0.wav" for i in (1, 3)),
        ],
        "validation": ["yes/2_nohash_0.wav"],
        "test": ["yes/0_nohash_0.wav", "backward/3_nohash_0.wav"],
    }
    for clip in (clip for clips in manifest.splits.values() for clip in clips):
        assert clip.path == str(archive / clip.id)
        assert clip.labels == (index[clip.id.split("/")[0]],)
    assert manifest.missing == []


def test_a_list_can_have_any_line_ends_and_missing_clips(archive):
    write_lists(archive, "\ufeffyes/2_nohash_0.wav\r\n\r\nno/1.wav\r\n", "yes/0_nohash_0.wav")
    manifest = list_speech_commands(archive, None)
    assert [clip.id for clip in manifest.splits["validation"]] == ["yes/2_nohash_0.wav"]
    assert manifest.missing == [
        f"{archive / 'validation_list.txt'}, line 3: {archive / 'no' / '1.wav'} does not exist"
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("../yes/1.wav", r"'\.\./yes/1\.wav' is not one of the 35 words"),
        ("yes/../1.wav", r"'yes/\.\./1\.wav' is not"),
        ("/yes/1.wav", "'/yes/1.wav' is not"),
        ("yes", "'yes' is not"),
        ("yes/", "'yes/' is not"),
        ("yes/.wav", "'yes/.wav' is not"),
        ("yes/1.mp3", "'yes/1.mp3' is not"),
        ("hello/1.wav", "'hello/1.wav' is not"),
        ("_background_noise_/0_nohash_0.wav", "'_background_noise_/0_nohash_0.wav' is not"),
        ("yes/\x1b.wav", r"the clip 'yes/\\x1b.wav' has a line break or an invalid character"),
        ("yes/0_nohash_0.wav", r"'yes/0_nohash_0\.wav' is in .*testing_list\.txt, line 1"),
        ("yes/2_nohash_0.wav", r"'yes/2_nohash_0\.wav' is in .*validation_list\.txt, line 1"),
    ],
)
def test_an_invalid_or_repeated_line_is_named(archive, line, message):
    write_lists(archive, "yes/2_nohash_0.wav\n", f"yes/0_nohash_0.wav\n{line}\n")
    with pytest.raises(InputError, match=rf"testing_list\.txt, line 2: {message}"):
        list_speech_commands(archive, None)


def test_a_binary_list_is_named_with_its_line(archive):
    (archive / "testing_list.txt").write_bytes(b"yes/0_nohash_0.wav\nyes/\xff.wav\n")
    with pytest.raises(InputError, match=r"testing_list\.txt: not a text file in UTF-8 \(line 2"):
        list_speech_commands(archive, None)
    (archive / "testing_list.txt").unlink()
    with pytest.raises(InputError, match=r"testing_list\.txt: cannot be read \(No such file"):
        list_speech_commands(archive, None)


def test_an_unknown_word_a_split_without_clips_and_a_class_csv_are_refused(archive):
    with pytest.raises(InputError, match="has its own classes"):
        list_speech_commands(archive, archive / "classes.csv")
    write_lists(archive, "no/1.wav\n", "yes/0_nohash_0.wav\n")
    with pytest.raises(
        InputError, match=r"validation_list\.txt: none of its sound files exists \("
    ):
        list_speech_commands(archive, None)
    clips = [f"{word}/{i}_nohash_0.wav" for word in ("yes", "backward") for i in range(4)]
    write_lists(archive, clips[0], "\n".join(clips[1:]))
    with pytest.raises(InputError, match="none is left to train on"):
        list_speech_commands(archive, None)
    (archive / "hello").mkdir()
    with pytest.raises(InputError, match="hello: 'hello' is not one of the 35 words"):
        list_speech_commands(archive, None)
    with pytest.raises(InputError, match="none: cannot be read"):
        list_speech_commands(archive / "none", None)
