"""`ast-jax classify` of long recordings: windows, events, and answers for the whole."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from itertools import chain, groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from ast_jax.cli.event_options import EventOptions
from ast_jax.cli.reading_bar import ReadingBar
from ast_jax.cli.result_formats import LABELS, ResultFormat, Results
from ast_jax.cli.sound_files import STDIN, complain_about, read_stdin
from ast_jax.errors import InputError, print_note
from ast_jax.io import check_free, json_checksum, read_json
from ast_jax.urls import check_local

if TYPE_CHECKING:
    import jax
    import numpy as np

    from ast_jax.audio.source import SoundFile
    from ast_jax.inference.classifier import AudioClassifier
    from ast_jax.inference.events import Event, EventTracker
    from ast_jax.inference.windows import Window, WindowInput, WindowSlicer
    from ast_jax.thresholds import Thresholds

T = TypeVar("T")


@dataclass(frozen=True)
class WindowOptions(EventOptions):
    """The options of `classify` for recordings that are longer than the model's input.

    Attributes:
        window: classify all of each recording in windows of so many seconds (the model's input)
        hop: seconds from the start of one window to the next (the window)
        events: find when each class is heard instead of labeling each window
        aggregate: label each recording as a whole, by its windows' mean, max or 1 - Π(1 - p)
        timeline: a new .png to draw the scores and events of a recording to
    """

    window: float | None = None
    hop: float | None = None
    events: bool = False
    aggregate: Literal["mean", "max", "noisy-or"] | None = None
    timeline: str = ""

    @property
    def are_set(self) -> bool:
        """Whether any is set, so that recordings are classified in windows."""
        return self != WindowOptions()

    def check(self) -> None:
        """Raises InputError if options contradict each other or the timeline exists."""
        if self.events and self.aggregate:
            raise InputError("--events and --aggregate exclude each other; leave one out")
        of_events = [field.name for field in fields(EventOptions)]
        for name in [*of_events, "timeline"] if not self.events else ():
            if getattr(self, name) != getattr(WindowOptions, name):
                raise InputError(
                    f"--{name.replace('_', '-')} is for events; add --events, or leave it out"
                )
        super().check()
        if self.timeline:
            check_local(self.timeline)
            check_free(Path(self.timeline))
            if Path(self.timeline).suffix.lower() != ".png":
                raise InputError(f"{self.timeline}: does not end in .png; choose a name that does")

    def check_number(self, num_recordings: int, output: str) -> None:
        """Raises InputError if the results of so many recordings do not fit a picture or file."""
        if num_recordings < 2:
            return
        if self.timeline:
            raise InputError(
                f"{self.timeline}: shows one recording, and there are {num_recordings}; leave out "
                f"--timeline, or the other recordings"
            )
        if self.events and output:
            from ast_jax.inference.event_files import check_names_fit

            check_names_fit(output, num_recordings)

    def result_format(self) -> ResultFormat:
        """Returns the format of the results."""
        if self.aggregate:
            return LABELS
        from ast_jax.cli.window_formats import EVENTS, WINDOWS

        return EVENTS if self.events else WINDOWS

    def resumed(self) -> dict[str, Any]:
        """Returns the options that determine an output file, by name.

        Raises:
            InputError: the file of thresholds cannot be read.
        """
        names = {f"--{name.replace('_', '-')}": value for name, value in asdict(self).items()}
        if self.thresholds:
            names["a --thresholds file of checksum"] = json_checksum(read_json(self.thresholds))
        return names | {"--timeline": ""}


def classify_windows(
    files: list[str],
    classifier: "AudioClassifier",
    options: WindowOptions,
    unusable: list[str],
    *,
    top_k: int,
    batch_size: int,
    scale_loud: bool = False,
    show_bar: bool = False,
) -> Results:
    """Returns an iterator of the results of each recording, which are found as they are read.

    Prints a message about a file that cannot be used; the results of what precedes damage in it
    are kept. Windows of several files share batches.

    Args:
        files: paths; "-" for a sound file on standard input.
        classifier: computes the scores.
        options: with `events` the results are events, with `aggregate` the labels of the whole,
            otherwise the labels of each window.
        unusable: receives the files that cannot be used or not completely.
        top_k: number of labels of a window or a whole.
        batch_size: windows that the device computes at once.
        scale_loud: whether to divide waveforms that go beyond 1 by their peak; reads files twice.
        show_bar: whether to show how far this is if stderr is a terminal.

    Raises:
        InputError: an option cannot be used.
    """
    from ast_jax.inference.column_scores import check_no_window
    from ast_jax.inference.windows import WindowSlicer
    from ast_jax.thresholds import calibration_of

    if classifier.config.frame_level:
        check_no_window(options.window, options.hop)
        score_files = partial(_score_columns, classifier=classifier)
    else:
        slicer_args = classifier.feature_extractor, options.window, options.hop
        WindowSlicer(*slicer_args)  # raises the errors of options
        score_files = partial(_score_windows, new_slicer=partial(WindowSlicer, *slicer_args))
    thresholds = options.read_thresholds()
    calibration = calibration_of(thresholds, classifier.labels)
    score = partial(classifier.probabilities, calibration=calibration)
    answer = _answer(classifier, options, thresholds, top_k)

    def results() -> Results:
        with ReadingBar(len(files), is_shown=show_bar) as bar:
            read = partial(read_windows, bar=bar, unusable=unusable, scale_loud=scale_loud)
            for file, windows in score_files(files, read, score, batch_size):
                yield file, answer(file, windows)

    return results()


def _score_windows(
    files: list[str],
    read: "Callable[[str, WindowSlicer], Iterator[WindowInput]]",
    score: "Callable[[np.ndarray], jax.Array]",
    batch_size: int,
    new_slicer: "Callable[[], WindowSlicer]",
) -> "Iterator[tuple[str, Iterator[Window]]]":
    """Yields each file that can be used, with its windows; those of several share batches."""
    from ast_jax.inference.batching import map_values
    from ast_jax.inference.windows import score_windows

    inputs = ((i, each) for i, file in enumerate(files) for each in read(file, new_slicer()))
    windows = map_values(partial(score_windows, score=score, batch_size=batch_size), inputs)
    for i, windows_of_file in groupby(windows, key=itemgetter(0)):
        yield files[i], map(itemgetter(1), windows_of_file)


def _score_columns(
    files: list[str],
    read: "Callable[[str, WindowSlicer], Iterator[WindowInput]]",
    score: "Callable[[np.ndarray], jax.Array]",
    batch_size: int,
    classifier: "AudioClassifier",
) -> "Iterator[tuple[str, Iterator[Window]]]":
    """Yields each file that can be used, with the columns that a frame-level model scores."""
    from ast_jax.columns import Columns
    from ast_jax.inference.column_scores import column_slicer, score_columns

    extractor = classifier.feature_extractor
    columns = Columns.of(classifier.config, extractor.sampling_rate)
    for file in files:
        slicer = column_slicer(extractor, columns)
        windows = score_columns(read(file, slicer), slicer, columns, score, batch_size)
        first = next(windows, None)
        if first is not None:  # as of a file that cannot be used
            yield file, chain([first], windows)


def _answer(
    classifier: "AudioClassifier",
    options: WindowOptions,
    thresholds: "Thresholds | None",
    top_k: int,
) -> "Callable[[str, Iterable[Window]], Iterable[Any]]":
    """Returns the function that makes the results of a file of its windows."""
    from ast_jax.cli.window_formats import LabeledWindow
    from ast_jax.inference.events import find_events
    from ast_jax.inference.windows import aggregate

    labels = classifier.labels

    def label(file: str, windows: "Iterable[Window]") -> Iterable[Any]:
        for start, end, scores in windows:
            yield LabeledWindow(start, end, classifier.best_labels(scores, top_k))

    def label_whole(file: str, windows: "Iterable[Window]") -> Iterable[Any]:
        scores = aggregate((window.scores for window in windows), str(options.aggregate))
        yield classifier.best_labels(scores, top_k)

    def find(file: str, windows: "Iterable[Window]") -> Iterable[Any]:
        if not options.timeline:
            return find_events(windows, tracker)
        return _draw_and_find(Path(options.timeline), file, windows, tracker, labels)

    if options.aggregate:
        return label_whole
    if not options.events:
        return label
    tracker = options.tracker(labels, thresholds)
    return find


def _draw_and_find(
    picture: Path,
    file: str,
    windows: "Iterable[Window]",
    tracker: "EventTracker",
    labels: Sequence[str],
) -> "Iterator[Event]":
    """Yields the events of a recording, and draws its timeline when all are found."""
    from ast_jax.inference.events import find_events
    from ast_jax.inference.timeline import draw_timeline

    all_windows: list[Window] = []
    all_events: list[Event] = []
    for event in find_events(_keep(windows, all_windows), tracker):
        all_events.append(event)
        yield event
    draw_timeline(picture, all_windows, all_events, labels, title=file)


def _keep(items: Iterable[T], kept: list[T]) -> Iterator[T]:
    for item in items:
        kept.append(item)
        yield item


def read_windows(
    file: str, slicer: "WindowSlicer", bar: ReadingBar, unusable: list[str], scale_loud: bool
) -> "Iterator[WindowInput]":
    """Yields the windows of a file; prints its notes, and why it cannot be used.

    Args:
        file: path; "-" for a sound file on standard input.
        slicer: a new one.
        bar: shows how far this is.
        unusable: receives the file if it cannot be used or not completely.
        scale_loud: whether to divide the waveform by its peak if it goes beyond 1; reads the file
            twice.
    """
    from ast_jax.audio.decode import open_recording
    from ast_jax.audio.source import open_source
    from ast_jax.inference.windows import slice_recording

    heard = 0.0
    try:
        source: SoundFile = read_stdin() if file == STDIN else file
        peak = 0.0
        if scale_loud:
            source = open_source(source).content or source  # a pipe cannot be read twice
            peak = _peak(source, slicer.rate)
        with open_recording(source, slicer.rate) as stream:
            bar.start(file, stream.seconds)
            blocks = (block / peak for block in stream) if peak > 1 else stream
            for window in slice_recording(blocks, slicer):
                heard = window.end
                bar.update(heard)
                yield window
        for note in filter(None, (stream.note, "" if peak > 1 else stream.level_note)):
            print_note(note)
    except (InputError, OSError) as error:
        unusable.append(file)
        complain_about(file, error)
        if heard:
            print_note(f"{file}: the results are of the {heard:.1f} s that could be read")


def _peak(source: "SoundFile", sampling_rate: int) -> float:
    """Returns the largest absolute value of a recording."""
    from ast_jax.audio.decode import open_recording
    from ast_jax.audio.pcm import peak_of

    with open_recording(source, sampling_rate) as stream:
        return max(map(peak_of, stream), default=0.0)
