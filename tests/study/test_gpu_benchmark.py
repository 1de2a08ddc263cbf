"""The benchmark for GPUs, on small models and whatever device there is."""

from __future__ import annotations

import pytest
import torch

from benchmarks import gpu


@pytest.mark.slow
def test_every_side_is_measured(tmp_path, capsys):
    gpu.main(["--tiny", "--models", "BERT-base", "ViT-B/16", "--out", str(tmp_path)])
    table = capsys.readouterr().out
    assert "Failed" not in table
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("| ")]
    found = {(row[0], row[1]): row[2:] for row in rows if row[0] in gpu.MODELS}
    assert {*found} == {(name, kind) for name in ("BERT-base", "ViT-B/16") for kind in ("full", "lora")}
    for ours, theirs, ratio, *_, took, said in found.values():
        assert float(ratio) == pytest.approx(float(ours.replace(",", "")) / float(theirs.replace(",", "")), rel=0.05)
        assert float(took) > 0
        assert float(said) > 0
    lines = (tmp_path / "results.jsonl").read_text().splitlines()
    gpu.main(["--tiny", "--models", "BERT-base", "ViT-B/16", "--out", str(tmp_path)])
    assert (tmp_path / "results.jsonl").read_text().splitlines() == lines, "nothing is measured twice"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(tmp_path):
    with pytest.raises(SystemExit, match="no CUDA device"):
        gpu.main(["--out", str(tmp_path / "nothing")])
    assert not (tmp_path / "nothing").exists()
