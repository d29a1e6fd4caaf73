"""Folders of data files, and folders that ``datasets`` saved."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from weft.data.folder import files, pick_split, suffix
from weft.errors import DataError


def filled(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    return folder


def chosen(folder: Path, split: str | None = None, subset: str | None = None) -> list[str]:
    found = files(folder, subset=subset, split=split, name="set")
    return [path.relative_to(folder).as_posix() for path in found]


def saved(folder: Path, *shards: str, **more: object) -> Path:
    filled(folder, *(shard for shard in shards if "/" not in shard))
    state = {"_data_files": [{"filename": shard} for shard in shards], "_split": None, **more}
    (folder / "state.json").write_text(json.dumps(state))
    return folder


def test_a_split_is_the_file_of_its_name(tmp_path: Path):
    filled(
        tmp_path, "train.jsonl", "dev.jsonl", "train_de.jsonl", "README.md", "dataset_info.json", ".train.csv"
    )
    assert chosen(tmp_path, "train") == ["train.jsonl"]
    assert chosen(tmp_path, "train_de") == ["train_de.jsonl"]
    with pytest.raises(
        DataError,
        match=r"set: must have the split trian.*Did you mean 'train'\? Choices: dev, train, train_de",
    ):
        chosen(tmp_path, "trian")


@pytest.mark.parametrize("has", ["dev", "validation", "valid", "val"])
@pytest.mark.parametrize("wants", ["dev", "validation", "valid", "val"])
def test_dev_has_many_names(tmp_path: Path, has: str, wants: str):
    filled(tmp_path, "train.csv", f"{has}.csv")
    assert chosen(tmp_path, wants) == [f"{has}.csv"]


def test_the_name_itself_comes_first(tmp_path: Path):
    filled(tmp_path, "dev.csv", "validation.csv")
    assert chosen(tmp_path, "validation") == ["validation.csv"]
    assert chosen(tmp_path, "dev") == ["dev.csv"]


def test_shards_in_order_and_in_the_data_folder(tmp_path: Path):
    names = [f"data/train-0000{index}-of-00003.parquet" for index in range(3)]
    filled(tmp_path, *reversed(names), "data/test-00000-of-00001.parquet", "README.md")
    assert chosen(tmp_path, "train") == names


def test_shards_of_older_files_and_the_only_folder_in_a_folder(tmp_path: Path):
    """As sets of the Hub with one subset lie in their repositories."""
    shard = "plain_text/train-00000-of-00001-0123456789abcdef.parquet"
    filled(tmp_path, shard, "plain_text/test-00000-of-00001.parquet", "README.md", ".cache/train.csv")
    assert chosen(tmp_path, "train") == [shard]
    filled(tmp_path, "unlabelled/train.csv")
    with pytest.raises(DataError, match="must hold data files, but holds none"):
        chosen(tmp_path, "train")
    assert chosen(tmp_path, "train", "plain_text") == [shard]


def test_without_a_split_there_must_be_one(tmp_path: Path):
    assert chosen(filled(tmp_path / "one", "all.csv", "README.md")) == ["all.csv"]
    with pytest.raises(DataError, match=r"has test, train\. Write set:<split>"):
        chosen(filled(tmp_path / "two", "train.csv", "test.csv"))


def test_two_formats_of_one_split_are_a_question(tmp_path: Path):
    with pytest.raises(DataError, match=r"is train\.csv, train\.jsonl\. Name the file"):
        chosen(filled(tmp_path, "train.csv", "train.jsonl"), "train")


def test_a_subset_is_a_folder(tmp_path: Path):
    filled(tmp_path, "de/train.csv", "en/train.csv")
    assert chosen(tmp_path, "train", "de") == ["de/train.csv"]
    with pytest.raises(DataError, match="the subset must be a folder"):
        chosen(tmp_path, "train", "fr")


def test_no_data(tmp_path: Path):
    with pytest.raises(DataError, match="must hold data files, but holds none"):
        chosen(filled(tmp_path, "README.md", "dataset_info.json"))


def test_packed_files_count(tmp_path: Path):
    assert chosen(filled(tmp_path, "train.jsonl.gz", "dev.JSONL"), "train") == ["train.jsonl.gz"]
    assert chosen(tmp_path, "dev") == ["dev.JSONL"]
    assert suffix(Path("x/A.JSONL.GZ")) == ".jsonl"
    for ending in ("gz", "bz2", "xz", "zst", "ZST"):
        assert suffix(Path(f"x/a.csv.{ending}")) == ".csv"
    assert chosen(filled(tmp_path, "test.csv.zst", "other.tar"), "test") == ["test.csv.zst"]


def test_a_saved_set(tmp_path: Path):
    saved(tmp_path, "data-00000-of-00002.arrow", "data-00001-of-00002.arrow")
    assert chosen(tmp_path) == ["data-00000-of-00002.arrow", "data-00001-of-00002.arrow"]
    with pytest.raises(DataError, match="Leave out :train"):
        chosen(tmp_path, "train")


def test_a_saved_dictionary_of_sets(tmp_path: Path):
    saved(tmp_path / "train", "a.arrow")
    saved(tmp_path / "validation", "b.arrow")
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "validation"]}')
    assert chosen(tmp_path, "train") == ["train/a.arrow"]
    assert chosen(tmp_path, "dev") == ["validation/b.arrow"]
    with pytest.raises(DataError, match="has train, validation"):
        chosen(tmp_path)
    with pytest.raises(DataError, match=r"must have the split \.\./train"):
        chosen(tmp_path, "../train")


@pytest.mark.parametrize(
    "shard", ["../secret.arrow", "/etc/passwd", "sub/x.arrow", "..", "", ".hidden", "missing.arrow"]
)
def test_a_list_that_leads_out_of_the_folder_is_refused(tmp_path: Path, shard: str):
    filled(tmp_path, "secret.arrow", "set/sub/x.arrow", "set/.hidden")
    folder = tmp_path / "set"
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": shard}]}))
    with pytest.raises(DataError, match="must list files beside it, but lists"):
        chosen(folder)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"_data_files": [1]}', '{"_data_files": 3}', "[" * 100_000]
)
def test_a_list_that_is_damaged(tmp_path: Path, text: str):
    (tmp_path / "state.json").write_text(text)
    with pytest.raises(DataError, match="must list the data files, but cannot be read"):
        chosen(tmp_path)


def test_a_table_of_indices_is_refused(tmp_path: Path):
    saved(tmp_path, "a.arrow", _indices_data_files=[{"filename": "i.arrow"}])
    with pytest.raises(DataError, match="must be saved flat"):
        chosen(tmp_path)


def test_pick_split_with_nothing_to_pick():
    with pytest.raises(DataError, match="but has none"):
        pick_split(None, [], name="set")
