"""URLs are told from paths, and each has a place of its own in the cache."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ast_jax.errors import InputError
from ast_jax.urls import cache_folder, is_remote, local_copy, normalize


@pytest.fixture
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("gs://bucket/run", True),
        ("s3://bucket", True),
        (Path("gs://bucket/run"), True),  # 'gs:/bucket/run'
        ("runs/mine", False),
        ("/runs/gs:/x", False),
        ("C:/runs", False),
        ("12:30", False),
        ("", False),
    ],
)
def test_urls_are_told_from_paths(path, expected):
    assert is_remote(path) is expected


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nosuch://bucket/x", "^nosuch://bucket/x: is a nosuch: URL; give a path, or a gs://"),
        ("https://example.org/x.pth", "is a https: URL"),
        ("gs://", "names no bucket; give a URL such as gs://BUCKET/NAME$"),
    ],
)
def test_a_url_of_another_scheme_or_without_a_bucket_is_refused(url, message):
    with pytest.raises(InputError, match=message):
        normalize(url)


@given(rest=st.text(max_size=300))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.usefixtures("cache")
def test_a_url_is_copied_to_a_folder_of_the_cache_or_refused(rest):
    try:
        target = local_copy(f"gs://{rest}", "runs")
    except InputError:
        assert not rest.strip("/")
        return
    assert target.resolve().parents[2] == cache_folder().resolve()
    target.mkdir(parents=True, exist_ok=True)  # the name can be used
