"""A hub's files reach the disk whole, or a sentence says what to do."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from huggingface_hub import constants

from studio.engine.hub import fetch
from studio.errors import ConfigurationError, DiskFull, DownloadError, ModelNotFound
from tests.hub import COMMIT, Hub

REPOSITORY = "facebook/musicgen-tiny"
FILES = ("config.json", "state_dict.bin")
WEIGHTS = bytes(range(256)) * 20_000  # 5.1 MB


@pytest.fixture(autouse=True)
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's own hub cache, empty."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    folder = tmp_path / "hub" / REPOSITORY
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "state_dict.bin").write_bytes(WEIGHTS)
    with Hub(tmp_path / "hub", aliases={"musicgen-tiny": REPOSITORY}) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


@pytest.fixture
def weights_dir(tmp_path: Path) -> Path:
    return tmp_path / "weights"


def ignore(fraction: float, what: str) -> None:
    return


def test_a_repository_is_downloaded_with_progress(hub: Hub, weights_dir: Path) -> None:
    seen: list[tuple[float, str]] = []
    folder = fetch(REPOSITORY, FILES, weights_dir, lambda fraction, what: seen.append((fraction, what)))
    assert folder == weights_dir / REPOSITORY
    assert (folder / "state_dict.bin").read_bytes() == WEIGHTS
    assert (folder / "config.json").read_text() == "{}"
    fractions = [fraction for fraction, _ in seen]
    assert fractions == sorted(fractions)
    assert fractions[-1] == pytest.approx(1.0)
    assert len(seen) >= 5
    assert seen[-1][1] == "downloading state_dict.bin, 5 of 5 MB"


def test_what_is_there_is_used_without_the_hub(hub: Hub, weights_dir: Path) -> None:
    fetch(REPOSITORY, FILES, weights_dir, ignore)
    before = hub.requests
    fetch(REPOSITORY, FILES, weights_dir, ignore)
    assert hub.requests == before
    assert sorted(path.name for path in (weights_dir / REPOSITORY).iterdir()) == sorted(FILES)
    assert list((weights_dir / ".partial").rglob("*.bin*")) == []


def test_two_workers_download_once(hub: Hub, weights_dir: Path) -> None:
    with ThreadPoolExecutor(2) as workers:
        folders = list(workers.map(lambda _: fetch(REPOSITORY, FILES, weights_dir, ignore), range(2)))
    assert folders[0] == folders[1]
    assert (folders[0] / "state_dict.bin").read_bytes() == WEIGHTS
    assert len(hub.ranges) == 1


def test_files_placed_by_hand_are_used(weights_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    folder = weights_dir / REPOSITORY
    folder.mkdir(parents=True)
    for file in FILES:
        (folder / file).write_bytes(b"mine")
    assert fetch(REPOSITORY, FILES, weights_dir, ignore) == folder


def test_what_the_user_has_in_the_hub_cache_is_used(hub_cache: Path, weights_dir: Path) -> None:
    stored = hub_cache / "models--facebook--musicgen-tiny"
    snapshot = stored / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (stored / "refs").mkdir()
    (stored / "refs" / "main").write_text(COMMIT)
    for file in FILES:
        (snapshot / file).write_bytes(b"theirs")
    assert fetch(REPOSITORY, FILES, weights_dir, ignore) == snapshot


def test_an_old_name_of_a_repository_is_followed(hub: Hub, weights_dir: Path) -> None:
    folder = fetch("musicgen-tiny", FILES, weights_dir, ignore)
    assert (folder / "state_dict.bin").read_bytes() == WEIGHTS


def test_a_connection_that_breaks_is_taken_up_where_it_stopped(hub: Hub, weights_dir: Path) -> None:
    hub.faults.drop_after = [2_000_000, 1_000_000]
    folder = fetch(REPOSITORY, FILES, weights_dir, ignore)
    assert (folder / "state_dict.bin").read_bytes() == WEIGHTS
    assert len(hub.ranges) == 3
    assert hub.ranges[0] is None
    assert hub.ranges[2] == "bytes=3000000-"


def test_a_download_that_was_interrupted_goes_on_at_the_second_try(hub: Hub, weights_dir: Path) -> None:
    hub.faults.drop_after = [3_000_000, 0]
    with pytest.raises(DownloadError, match=r"broke at 3 of 5 MB of state_dict.bin.*Try again: it goes on from there"):
        fetch(REPOSITORY, FILES, weights_dir, ignore)
    folder = fetch(REPOSITORY, FILES, weights_dir, ignore)
    assert (folder / "state_dict.bin").read_bytes() == WEIGHTS
    assert hub.ranges[-1] == "bytes=3000000-"


def test_an_answer_that_is_shorter_than_the_file_ends_the_download(hub: Hub, weights_dir: Path) -> None:
    hub.faults.unannounced, hub.faults.drop_after = True, [3_000_000, *[0] * 50]
    with pytest.raises(DownloadError, match=r"broke at 3 of 5 MB of state_dict.bin \(the answer was shorter\)"):
        fetch(REPOSITORY, FILES, weights_dir, ignore)
    assert len(hub.ranges) == 2


def test_a_server_that_goes_away_is_said_so(hub: Hub, weights_dir: Path) -> None:
    hub.faults.dies_after = 1_000_000
    with pytest.raises(DownloadError, match="broke at 1 of 5 MB"):
        fetch(REPOSITORY, FILES, weights_dir, ignore)


def test_a_server_that_ignores_ranges_begins_anew(hub: Hub, weights_dir: Path) -> None:
    hub.faults.ignore_range = True
    hub.faults.drop_after = [2_000_000]
    folder = fetch(REPOSITORY, FILES, weights_dir, ignore)
    assert (folder / "state_dict.bin").read_bytes() == WEIGHTS


def test_a_damaged_file_is_not_kept(hub: Hub, weights_dir: Path) -> None:
    hub.faults.corrupt = True
    with pytest.raises(DownloadError, match=r"state_dict\.bin arrived damaged"):
        fetch(REPOSITORY, FILES, weights_dir, ignore)
    assert not (weights_dir / REPOSITORY / "state_dict.bin").exists()
    hub.faults.corrupt = False
    fetch(REPOSITORY, FILES, weights_dir, ignore)
    assert hub.ranges[-1] is None


def test_a_file_longer_than_stated_is_damaged(hub: Hub, weights_dir: Path) -> None:
    hub.faults.claimed_size = len(WEIGHTS) - 1
    with pytest.raises(DownloadError, match="arrived damaged"):
        fetch(REPOSITORY, FILES, weights_dir, ignore)


def test_a_full_disk_is_noticed_before_the_download(hub: Hub, weights_dir: Path) -> None:
    hub.faults.claimed_size = 10**16
    with pytest.raises(DiskFull, match=r"take 10,000,000,000 MB and .* has [\d,]+ MB free.*DGX_MUSIC_DATA_DIR"):
        fetch(REPOSITORY, FILES, weights_dir, ignore)
    assert hub.ranges == []


def test_offline_says_how_to_go_on(weights_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(DownloadError, match="cannot be reached") as caught:
        fetch(REPOSITORY, FILES, weights_dir, ignore)
    assert not caught.value.permanent
    assert "HF_ENDPOINT" in str(caught.value)
    assert f"put config.json and state_dict.bin of {REPOSITORY} into {weights_dir / REPOSITORY}" in str(caught.value)


def test_an_unknown_repository_is_a_model_that_does_not_exist(hub: Hub, weights_dir: Path) -> None:
    with pytest.raises(ModelNotFound, match="The hub has no model facebook/musicgen-huge"):
        fetch("facebook/musicgen-huge", FILES, weights_dir, ignore)


def test_a_repository_in_another_format_is_said_so(hub: Hub, weights_dir: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"lacks one of other\.bin"):
        fetch(REPOSITORY, ["other.bin"], weights_dir, ignore)


def test_a_repository_for_members_says_how_to_join(hub: Hub, weights_dir: Path) -> None:
    hub.faults.gated = True
    with pytest.raises(ModelNotFound, match="accept its terms on the hub and set HF_TOKEN"):
        fetch(REPOSITORY, FILES, weights_dir, ignore)


def test_a_hub_in_trouble_is_tried_again_later(hub: Hub, weights_dir: Path) -> None:
    hub.faults.status = 503
    with pytest.raises(DownloadError, match="The hub answered 503"):
        fetch(REPOSITORY, FILES, weights_dir, ignore)


@pytest.mark.parametrize("name", ["../../etc", "/etc", "a/b/c", "a b", ""])
def test_a_name_that_is_a_path_is_no_repository(name: str, weights_dir: Path) -> None:
    with pytest.raises(ModelNotFound, match="is not the name of a repository"):
        fetch(name, FILES, weights_dir, ignore)


def test_a_folder_that_cannot_be_written_is_said_so(hub: Hub, weights_dir: Path) -> None:
    weights_dir.touch()
    with pytest.raises(ConfigurationError, match="cannot be written"):
        fetch(REPOSITORY, FILES, weights_dir, ignore)
