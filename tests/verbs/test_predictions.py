"""Files of predictions: whole or not there, gone on with after a kill, in every format the same."""

from __future__ import annotations

import csv
import json

import pytest
from pyarrow import parquet

from hfstrat.errors import UsageError
from hfstrat.verbs import predictions
from hfstrat.verbs.predictions import FORMATS, written

ROWS = [{"id": str(place), "prediction": f"é{place}\n", "scores": {"a": 0.25, "b": 0.75}} for place in range(10)]
ABOUT = {"data": ["in.csv", 12, 5], "model": []}


class Killed(BaseException):
    """As a signal: nothing runs that would tidy up after an ordinary error only."""


def killed_after(count):
    yield from ROWS[:count]
    raise Killed


def read(file):
    if file.suffix == ".jsonl":
        return [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    if file.suffix == ".parquet":
        return parquet.read_table(file).to_pylist()
    with file.open(newline="", encoding="utf-8") as stream:
        return [
            {
                "id": row["id"],
                "prediction": row["prediction"],
                "scores": {name: float(row[name]) for name in row if name not in ("id", "prediction")},
            }
            for row in csv.DictReader(stream)
        ]


@pytest.mark.parametrize("ending", FORMATS)
def test_a_killed_file_is_not_there_and_goes_on(ending, tmp_path, monkeypatch):
    monkeypatch.setattr(predictions, "AT_ONCE", 3)
    output = tmp_path / f"out{ending}"
    with pytest.raises(Killed), written(output, ABOUT) as partial:
        partial.write(killed_after(8), 3)
    assert not output.exists()
    with written(output, ABOUT) as partial:
        assert partial.done == 6, "two stretches were safe"
        partial.write(iter(ROWS[partial.done :]), 3)
    assert read(output) == ROWS
    assert [file.name for file in tmp_path.iterdir()] == [output.name]


def test_rows_that_were_written_but_not_noted_are_written_again(tmp_path):
    output = tmp_path / "out.jsonl"
    with pytest.raises(Killed), written(output, ABOUT) as partial:
        partial.write(killed_after(9), 4)
    with (tmp_path / ".out.jsonl.partial").open("ab") as stream:
        stream.write(b'{"id": "8", "predic')
    with written(output, ABOUT) as partial:
        partial.write(iter(ROWS[partial.done :]), 4)
    assert read(output) == ROWS


@pytest.mark.parametrize("other", [{**ABOUT, "data": ["in.csv", 13, 6]}, None], ids=["changed", "a pipe"])
def test_of_other_data_all_is_predicted_again(other, tmp_path):
    output = tmp_path / "out.jsonl"
    with pytest.raises(Killed), written(output, ABOUT) as partial:
        partial.write(killed_after(8), 4)
    with written(output, other) as partial:
        assert partial.done == 0
        partial.write(iter(ROWS), 4)
    assert read(output) == ROWS


def test_nothing_is_left_of_what_cannot_be_gone_on_with(tmp_path):
    with pytest.raises(Killed), written(tmp_path / "out.csv", None) as partial:
        partial.write(killed_after(8), 4)
    assert not [*tmp_path.iterdir()]


def test_a_file_that_was_there_stays_until_the_new_one_is_whole(tmp_path):
    output = tmp_path / "out.jsonl"
    output.write_text("before", "utf-8")
    with pytest.raises(Killed), written(output, ABOUT) as partial:
        partial.write(killed_after(8), 4)
    assert output.read_text("utf-8") == "before"


def test_a_second_writer_is_turned_away(tmp_path):
    output = tmp_path / "out.jsonl"
    with written(output, ABOUT) as partial:
        with pytest.raises(UsageError, match="another process writes"), written(output, ABOUT):
            pass
        partial.write(iter(ROWS), 4)
    assert read(output) == ROWS


def test_a_folder_that_is_not_there_is_said(tmp_path):
    with pytest.raises(UsageError, match="cannot be written"), written(tmp_path / "no" / "out.csv", ABOUT):
        pass


def test_lists_that_are_empty_at_first_have_their_columns_in_parquet(tmp_path, monkeypatch):
    monkeypatch.setattr(predictions, "AT_ONCE", 2)
    rows = [{"id": str(place), "prediction": []} for place in range(3)]
    rows.append({"id": "3", "prediction": [{"label": "name", "start": 0, "score": 0.5}]})
    output = tmp_path / "out.parquet"
    with written(output, None) as partial:
        partial.write(iter(rows), 2)
    assert read(output) == rows


def test_no_rows_make_a_file_without_rows(tmp_path):
    for ending in FORMATS:
        with written(tmp_path / f"out{ending}", None) as partial:
            partial.write(iter([]), 4)
        assert read(tmp_path / f"out{ending}") == []
