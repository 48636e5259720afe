"""A request names a model of the catalogue or a fine-tune's folder, and nothing else on the disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from studio.engine.catalog import BUNDLED, CATALOG, EXPORT_FILES, local_models, resolve
from studio.errors import ModelNotFound
from studio.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data")


def make_model(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name in EXPORT_FILES:
        (folder / name).touch()
    return folder


def test_every_model_of_the_contract_is_there() -> None:
    family = ["small", "medium", "large", "melody", "melody-large", "style"]
    stereo = [f"stereo-{name}" for name in ("small", "medium", "large", "melody", "melody-large")]
    assert set(CATALOG) == {f"musicgen-{name}" for name in ["mini", *family, *stereo]}


def test_only_the_bundled_model_may_be_used_commercially(settings: Settings) -> None:
    free = [info.name for info in CATALOG.values() if "NC" not in info.licence]
    assert free == ["musicgen-mini"] == [settings.model_name]


def test_every_model_lies_on_the_hub_or_on_the_disk() -> None:
    for info in CATALOG.values():
        assert (info.repository is None) != (info.folder is None)
        assert (info.download_bytes > 0) == (info.repository is not None)
        assert info.channels == (2 if "stereo" in info.name else 1)
    assert CATALOG["musicgen-mini"].folder == BUNDLED


def test_a_wrong_name_is_answered_with_the_names_that_there_are(settings: Settings) -> None:
    with pytest.raises(ModelNotFound, match=r"Did you mean .*musicgen-small") as caught:
        resolve("musicgen-smal", settings)
    assert all(name in str(caught.value) for name in CATALOG)


def test_a_fine_tune_in_the_data_dir_is_found_by_its_name(settings: Settings) -> None:
    folder = make_model(settings.data_dir / "models" / "my-jazz")
    assert resolve("my-jazz", settings).folder == folder
    for name in (str(folder), "./my-jazz", "my-jazz/", "others/../my-jazz"):
        assert resolve(name, settings) == resolve("my-jazz", settings)
    assert local_models(settings) == ["my-jazz"]
    with pytest.raises(ModelNotFound, match=r"There are: .*my-jazz"):
        resolve("nonsense", settings)


def test_the_operator_may_name_any_folder(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "elsewhere")
    settings = Settings(data_dir=tmp_path / "data", model_name=str(folder))
    assert resolve(str(folder), settings).folder == folder


@pytest.mark.parametrize(
    "name",
    ["{outside}", "../../outside", "models/../../outside", ".", "", "..", "/", "x" * 400, "a\0b", "~", "nothing"],
)
def test_a_request_may_not_name_a_folder_elsewhere(name: str, settings: Settings, tmp_path: Path) -> None:
    outside = make_model(tmp_path / "outside")
    (settings.data_dir / "models").mkdir(parents=True)
    with pytest.raises(ModelNotFound, match="There is no model"):
        resolve(name.format(outside=outside), settings)


def test_a_folder_that_is_no_model_says_what_it_lacks(settings: Settings) -> None:
    (settings.data_dir / "models" / "empty").mkdir(parents=True)
    with pytest.raises(ModelNotFound, match=r"needs state_dict\.bin and compression_state_dict\.bin"):
        resolve("empty", settings)
