"""Reading files, tables in memory and the Hub, and what is said when that fails."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pandas as pd
import pytest
from datasets import Dataset, DatasetDict, Value

from hfstrat.data import sources
from hfstrat.data.sources import load
from hfstrat.errors import DataError
from hfstrat.recipe.data import BuiltinData, FileData, HubData, MemoryData


def write(path: Path, text: str | bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return str(path)


def read(path: Path, text: str | bytes, **more: str) -> Dataset:
    return load(FileData(source=write(path, text), **more)).splits["train"]


def said(path: Path, text: str | bytes, **more: str) -> str:
    with pytest.raises(DataError) as caught:
        read(path, text, **more)
    return str(caught.value)


def test_conll_files_are_sentences_of_words(tmp_path: Path) -> None:
    text = "-DOCSTART- -X- O\n\nEU NNP B-ORG\nrejects VBZ O\n\n\nPeter NNP B-PER\n"
    assert read(tmp_path / "a.conll", text).to_list() == [
        {"tokens": ["EU", "rejects"], "column_2": ["NNP", "VBZ"], "tags": ["B-ORG", "O"]},
        {"tokens": ["Peter"], "column_2": ["NNP"], "tags": ["B-PER"]},
    ]
    assert read(tmp_path / "b.bio", "a b c\tO\r\nd\tB-x").to_list() == [
        {"tokens": ["a b c", "d"], "tags": ["O", "B-x"]}
    ]


def test_universal_dependencies_have_their_own_names(tmp_path: Path) -> None:
    line = "{}\t{}\t_\t{}\t_\t_\t0\t_\t_\t_\n"
    text = (
        "# text = vamos\n"
        + line.format("1-2", "vámonos", "_")
        + line.format(1, "vamos", "VERB")
        + line.format(2, "nos", "PRON")
    )
    (row,) = read(tmp_path / "a.conllu", text).to_list()
    assert (row["tokens"], row["upos"], row["number"]) == (["vamos", "nos"], ["VERB", "PRON"], ["1", "2"])


def test_a_conll_word_may_hold_a_blank_of_another_kind(tmp_path: Path) -> None:
    assert read(tmp_path / "a.conll", "10\u00a0000 O\n\u00a0 O\n").to_list() == [
        {"tokens": ["10\u00a0000", "\u00a0"], "tags": ["O", "O"]}
    ]


def test_objects_of_which_a_field_is_always_empty(tmp_path: Path) -> None:
    spans = [{"start": 0, "end": 1, "label": "x", "note": None}] * 2
    rows = read(tmp_path / "a.jsonl", f"{json.dumps({'text': 'a b', 'spans': spans})}\n" * 3)
    assert rows[0]["spans"] == spans


def test_a_conll_line_that_is_too_short_is_named(tmp_path: Path) -> None:
    assert "a.conll:3: this line has 1 columns, and the first one 2" in said(tmp_path / "a.conll", "a O\nb O\nc\n")


def test_csv_keeps_labels_as_they_are_written(tmp_path: Path) -> None:
    rows = read(tmp_path / "a.csv", "text,code,flag,n,x\na,001,NA,1,1\nb,002,None,2,2.5\nc,003,nan,-3,1e-3\n")
    assert rows["code"][:] == ["001", "002", "003"]
    assert rows["flag"][:] == ["NA", "None", "nan"]
    assert rows["n"][:] == [1, 2, -3]
    assert rows["x"][:] == [1.0, 2.5, 1e-3]
    assert {name: kind.dtype for name, kind in rows.features.items()} == {
        "text": "string", "code": "string", "flag": "string", "n": "int64", "x": "float64"
    }  # fmt: skip


@pytest.mark.parametrize("cell", ["1_000", "+1", "0x10", "1e", ".", "-", "٣", "1 ", "-0", "9" * 19, "inf", "1.5.2"])
def test_what_is_not_written_as_a_number_stays_text(tmp_path: Path, cell: str) -> None:
    rows = read(tmp_path / "a.csv", f"n\n1\n{cell}\n")
    if cell in ("-0", "9" * 19):  # numbers, but no int64
        assert rows.features["n"].dtype == "float64"
    else:
        assert rows["n"][:] == ["1", cell]


def test_empty_cells_are_missing(tmp_path: Path) -> None:
    rows = read(tmp_path / "a.csv", 'text,n,x\na,1,\n"",,\n')
    assert rows["text"][:] == ["a", None]
    assert rows["n"][:] == [1, None]
    assert rows["x"][:] == [None, None]


def test_bom_crlf_quoted_lines_and_blank_lines(tmp_path: Path) -> None:
    text = '\ufefftext,label\r\n"one, ""two""\r\nthree",a\r\n\r\nfour,b\r\n'
    rows = read(tmp_path / "a.csv", text)
    assert rows.column_names == ["text", "label"]
    assert rows["text"][:] == ['one, "two"\r\nthree', "four"]


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.json", "a.jsonl"])
def test_a_byte_order_mark_and_windows_lines_change_nothing(tmp_path: Path, name: str) -> None:
    records = [{"text": "one", "label": "a"}, {"text": "two, three", "label": "b"}]
    plain = {
        "a.csv": 'text,label\none,a\n"two, three",b\n',
        "a.tsv": "text\tlabel\none\ta\ntwo, three\tb\n",
        "a.json": json.dumps(records, indent=1),
        "a.jsonl": "".join(json.dumps(record) + "\n" for record in records),
    }[name]
    (tmp_path / "other").mkdir()
    other = read(tmp_path / "other" / name, "\ufeff" + plain.replace("\n", "\r\n"))
    assert read(tmp_path / name, plain).to_list() == other.to_list() == records


def test_ragged_row_names_its_line(tmp_path: Path) -> None:
    text = 'text,label\n"two\nlines",a\nno label\nx,b,c\n'
    message = said(tmp_path / "a.csv", text)
    assert "a.csv:4: this row has 1 cells and the header has 2; 1 more such rows" in message


def test_open_quotation_mark_names_its_line(tmp_path: Path) -> None:
    message = said(tmp_path / "a.csv", 'text,label\nfine,a\n"never closed,b\nmore,c\n')
    assert "a.csv:3: a quotation mark is not closed" in message


def test_tsv_without_quoting_is_read_and_said(tmp_path: Path) -> None:
    loaded = load(FileData(source=write(tmp_path / "a.tsv", 'text\tlabel\n"Hi" she said\ta\n')))
    assert loaded.splits["train"]["text"][:] == ['"Hi" she said']
    assert any("read as text" in reason for reason in loaded.reasons)


def test_delimiter_is_seen_in_the_header_or_given(tmp_path: Path) -> None:
    loaded = load(FileData(source=write(tmp_path / "a.csv", "text;label\nso, so;a\n")))
    assert loaded.splits["train"]["text"][:] == ["so, so"]
    assert "';'" in loaded.reasons[0]
    assert read(tmp_path / "b.csv", "text^label\na^b\n", delimiter="^").column_names == ["text", "label"]


def test_duplicate_and_missing_column_names(tmp_path: Path) -> None:
    assert "two columns are named 'text'" in said(tmp_path / "a.csv", "text,text\na,b\n")
    assert read(tmp_path / "b.csv", ",text\n0,a\n").column_names == ["unnamed_0", "text"]


def test_bytes_that_are_not_utf8(tmp_path: Path) -> None:
    message = said(tmp_path / "a.csv", b"text,label\nok,a\ncaf\xe9,b\n")
    assert "a.csv:3: the text is not UTF-8: byte 0xe9 at position 19" in message
    assert "iconv" in message
    assert "UTF-16" in said(tmp_path / "b.csv", "text,label\na,b\n".encode("utf-16"))


@pytest.mark.parametrize(
    ("name", "text"), [("a.csv", ""), ("a.jsonl", " \n"), ("a.csv", "text,label\n"), ("a.json", "[]")]
)
def test_empty_files(tmp_path: Path, name: str, text: str) -> None:
    assert any(words in said(tmp_path / name, text) for words in ("the file is empty", "the file has no rows"))


def test_a_missing_file_names_its_neighbours(tmp_path: Path) -> None:
    write(tmp_path / "reviews.csv", "text,label\na,b\n")
    with pytest.raises(DataError, match=r"Did you mean 'reviews\.csv'\?"):
        load(FileData(source=str(tmp_path / "review.csv")))
    with pytest.raises(DataError, match="There is no folder"):
        load(FileData(source=str(tmp_path / "nowhere" / "review.csv")))


def test_relative_paths_are_found_beside_the_recipe(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", "text,label\na,b\n")
    write(tmp_path / "b.csv", "text,label\na,b\n")
    spec = FileData(source="a.csv", test="b.csv")
    assert set(load(spec, folder=tmp_path).splits) == {"train", "b.csv"}
    with pytest.raises(DataError, match=r"Did you mean 'a\.csv'"):
        load(FileData(source="aa.csv"), folder=tmp_path)


RECORDS = [{"text": "a", "label": "x"}, {"text": "b\u2028c", "label": None}]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", json.dumps(RECORDS)),
        ("a.json", json.dumps({"version": 1, "data": RECORDS})),
        ("a.json", "\n".join(json.dumps(record, ensure_ascii=False) for record in RECORDS)),
        ("a.jsonl", "\n".join(json.dumps(record, ensure_ascii=False) for record in RECORDS) + "\r\n\n"),
        ("a.ndjson", "\ufeff" + "\n".join(json.dumps(record) for record in RECORDS)),
    ],
)
def test_json_in_its_forms(tmp_path: Path, name: str, text: str) -> None:
    rows = read(tmp_path / name, text)
    assert rows.to_list() == RECORDS
    assert rows.features["text"] == Value("string")


def test_json_that_is_wrong(tmp_path: Path) -> None:
    assert "a.jsonl:2: this line is not JSON" in said(tmp_path / "a.jsonl", '{"a": 1}\n{"a": \n')
    assert "a.jsonl:1: this line is not an object" in said(tmp_path / "a.jsonl", "[1]\n")
    assert "a.json:1: this is not JSON" in said(tmp_path / "a.json", "[{]")
    assert "not a list of objects" in said(tmp_path / "a.json", '{"a": {"b": 1}}')
    assert "item 2 is not an object" in said(tmp_path / "a.json", '[{"a": 1}, 2]')
    mixed = '{"label": 1}\n{"label": 2.5}\n{"label": "no"}\n'
    assert "a.jsonl:3: column 'label' holds numbers above and text here" in said(tmp_path / "a.jsonl", mixed)


def test_json_keys_may_be_left_out_and_hold_lists(tmp_path: Path) -> None:
    rows = read(tmp_path / "a.jsonl", '{"text": "a", "label": ["x", "y"]}\n{"text": "b"}\n')
    assert rows["label"][:] == [["x", "y"], None]


def test_parquet(tmp_path: Path) -> None:
    frame = pd.DataFrame({"text": ["a", "b"], "label": pd.Categorical(["x", "y"])}, index=[3, 5])
    frame.to_parquet(tmp_path / "a.parquet")
    rows = load(FileData(source=str(tmp_path / "a.parquet"))).splits["train"]
    assert rows.column_names == ["text", "label"]
    assert {kind.dtype for kind in rows.features.values()} == {"string"}
    assert "not a parquet file" in said(tmp_path / "b.parquet", b"PAR1 and nothing")


def test_a_folder_is_split_by_names(tmp_path: Path) -> None:
    write(tmp_path / "train-0.csv", "text,label\na,1\n")
    write(tmp_path / "train-1.csv", "label,text\nx,b\n")
    write(tmp_path / "val.jsonl", '{"text": "c", "label": "x"}')
    write(tmp_path / "test.csv", "text,label\nd,1\n")
    write(tmp_path / "extra.csv", "text,label\ne,1\n")
    write(tmp_path / "notes.txt", "not data")
    splits = load(FileData(source=str(tmp_path))).splits
    assert set(splits) == {"train", "validation", "test", "extra"}
    assert splits["train"].to_list() == [{"text": "a", "label": "1"}, {"text": "b", "label": "x"}]


def test_parts_of_a_split_need_the_same_columns(tmp_path: Path) -> None:
    write(tmp_path / "train-0.csv", "text,label\na,1\n")
    write(tmp_path / "train-1.csv", "text,class\nb,2\n")
    with pytest.raises(DataError, match="Parts of one split need the same columns"):
        load(FileData(source=str(tmp_path)))


def test_an_empty_folder_and_two_train_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no data file in the folder"):
        load(FileData(source=str(tmp_path)))
    file = write(tmp_path / "a.csv", "text,label\na,1\n")
    with pytest.raises(DataError, match="both name a file"):
        load(FileData(source=file, train="b.csv"))


def test_all_wrong_files_are_named_at_once(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", "text,label\na\n")
    write(tmp_path / "test.csv", "")
    with pytest.raises(DataError) as caught:
        load(FileData(source=str(tmp_path)))
    assert len(caught.value.problems) == 2


def test_fingerprint_follows_content_and_not_place(tmp_path: Path) -> None:
    one = load(FileData(source=write(tmp_path / "a.csv", "text,label\na,1\n"))).fingerprint
    moved = load(FileData(source=write(tmp_path / "sub" / "b.csv", "text,label\na,1\n"))).fingerprint
    other = load(FileData(source=write(tmp_path / "a.csv", "text,label\na,2\n"))).fingerprint
    assert one == moved != other
    assert len(one) == 64


def test_memory_takes_data_sets_and_frames() -> None:
    frame = pd.DataFrame({"text": ["a", "b"], "label": [0, 1]}, index=[7, 8])
    rows = Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]})
    spec = MemoryData()
    loaded = [load(spec, frame), load(spec, rows), load(spec, DatasetDict(train=rows)), load(spec, {"train": frame})]
    assert {one.fingerprint for one in loaded} == {loaded[0].fingerprint}
    assert all(one.splits["train"].features["text"] == Value("string") for one in loaded)
    assert load(spec, rows.select([1, 0])).fingerprint != loaded[0].fingerprint
    assert set(load(spec, {"train": rows, "valid": rows}).splits) == {"train", "validation"}


def test_memory_casts_large_strings_and_drops_formats() -> None:
    rows = Dataset.from_dict({"text": ["a"], "n": [1]}).cast_column("text", Value("large_string")).with_format("numpy")
    plain = load(MemoryData(), rows).splits["train"]
    assert plain.features["text"] == Value("string")
    assert plain.format["type"] is None


def test_memory_that_cannot_be_used() -> None:
    with pytest.raises(DataError, match="needs data from Python"):
        load(MemoryData())
    with pytest.raises(DataError, match="split train is a list"):
        load(MemoryData(), [1, 2])  # type: ignore[arg-type]
    with pytest.raises(DataError, match="mixed types"):
        load(MemoryData(), pd.DataFrame({"text": ["a", 1]}))


def test_builtin_is_fingerprinted_with_the_python_version(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {"train": Dataset.from_dict({"text": ["a"]})}
    monkeypatch.setattr("hfstrat.data.builtin.python_docs", lambda: rows)
    spec = BuiltinData(source="builtin:python-docs")
    loaded = load(spec)
    assert ".".join(map(str, sys.version_info[:3])) in loaded.origin
    monkeypatch.setattr(sys, "version_info", (3, 99, 0))
    assert load(spec).fingerprint != loaded.fingerprint
    with pytest.raises(DataError, match="Did you mean 'builtin:python-docs'"):
        load(BuiltinData(source="builtin:python-doc"))


def test_hub_without_a_network_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)

    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", unreachable)
    with pytest.raises(DataError, match=r"the Hub cannot be reached.*no route to host.*HF_HUB_OFFLINE=1"):
        load(HubData(source="me/reviews"))


def test_hub_offline_without_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match=r"me/no-such-data is not in the cache, and HF_HUB_OFFLINE is set"):
        load(HubData(source="me/no-such-data"))


def test_hub_data_are_pinned_to_the_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    rows = Dataset.from_dict({"text": ["a"]}).cast_column("text", Value("large_string"))

    def download(source: str, **options: object) -> DatasetDict:
        calls.append((source, options))
        return DatasetDict({"train": rows, "dev": rows})

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(sources, "revision_on_hub", lambda _: "abc123")
    monkeypatch.setattr("datasets.load_dataset", download)
    loaded = load(HubData(source="me/reviews", subset="small"))
    assert calls == [("me/reviews", {"name": "small", "revision": "abc123"})]
    assert set(loaded.splits) == {"train", "validation"}
    assert loaded.splits["train"].features["text"] == Value("string")
    assert "abc123" in loaded.origin


def test_hub_errors_say_their_hidden_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        try:
            raise ValueError("column 'x' is broken")
        except ValueError as cause:
            raise RuntimeError("an error occurred while generating the dataset") from cause

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(sources, "revision_on_hub", lambda _: "abc123")
    monkeypatch.setattr("datasets.load_dataset", fail)
    with pytest.raises(DataError, match="column 'x' is broken"):
        load(HubData(source="me/reviews"))
