import shutil
import sys

import pytest

from tests.fuzz.harness import CLEAN, run_cases, table

if sys.platform != "linux":
    pytest.skip("the harness reads /proc", allow_module_level=True)


def assert_clean(case, seeds, **limits):
    results = run_cases("tests.fuzz.audio", case, seeds, **limits)
    assert len(results) == len(seeds)
    assert all(result.end in CLEAN for result in results), table(results)
    return results


def test_changed_sound_files_are_read_or_refused():
    results = assert_clean("load", range(100))
    ends = [result.end for result in results]
    assert 20 < ends.count("answer") < 80  # neither kind is missing


def test_files_of_gigabytes_take_little_memory():
    for result in assert_clean("huge", range(8), megabytes=600):
        assert result.megabytes < 600


@pytest.mark.slow
@pytest.mark.parametrize("first", range(1000, 11000, 2500))
def test_thousands_of_changed_sound_files_are_read_or_refused(first):
    assert_clean("load", range(first, first + 2500))


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="needs ffmpeg")
def test_changed_mp4_files_are_read_or_refused():
    assert_clean("container", range(300), seconds=20)
