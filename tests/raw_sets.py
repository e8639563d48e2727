"""Writes short noise clips in the layouts of the benchmarks and of a user's recordings."""

import soundfile


def write_clips(folder, names, rng):
    for name in names:
        path = folder / f"{name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, rng.uniform(-0.5, 0.5, 4000), 16000)


def write_audioset(folder, rng):
    """Writes 8 clips of each training list and 3 of the evaluation's, all speech."""
    for split, clips in (("balanced_train", 8), ("unbalanced_train", 8), ("eval", 3)):
        names = [f"{split}{i}" for i in range(clips)]
        write_clips(folder, names, rng)
        lines = [f'{name}, 0.0, 10.0, "/m/09x0r"\n' for name in names]
        (folder / f"{split}_segments.csv").write_text("# a list\n" + "".join(lines))


def write_speech_commands(folder, rng):
    """Writes 7 clips of each of two words, two of them for validation and three for the test."""
    write_clips(folder, [f"{word}/{i}" for word in ("yes", "no") for i in range(7)], rng)
    (folder / "validation_list.txt").write_text("yes/0.wav\nno/0.wav\n")
    (folder / "testing_list.txt").write_text("yes/1.wav\nno/1.wav\nno/2.wav\n")


def write_esc50(folder, rng):
    """Writes a clip of each of two classes for each fold."""
    names = [f"{fold}-1-A-{target}" for fold in range(1, 6) for target in (0, 10)]
    write_clips(folder / "audio", names, rng)
    rows = [f"{n}.wav,{n[0]},{n.split('-')[3]},{('dog', 'rain')[n.endswith('10')]}" for n in names]
    (folder / "meta").mkdir()
    (folder / "meta" / "esc50.csv").write_text(
        "\n".join(["filename,fold,target,category", *rows]) + "\n"
    )
