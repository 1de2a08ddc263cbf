from __future__ import annotations

import http.server
import json
import os
import socket
import threading
from pathlib import Path
from typing import Any

import pytest
import typer

from hfstrat.verbs import doctor

HEALTHY: dict[str, Any] = {
    "errors": {},
    "machine": {"device": "cpu", "cores": 2, "processes": 1, "local_processes": 1, "bf16": False},
    "gpus": [],
}


@pytest.fixture
def probed(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the probe finds; importing everything takes too long for each test."""
    found = json.loads(json.dumps(HEALTHY))
    monkeypatch.setattr(doctor, "probe", lambda: found)
    return found


def run_json(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    doctor.run(as_json=True)
    return json.loads(capsys.readouterr().out)


def by_name(checks: list[doctor.Check]) -> dict[str, doctor.Check]:
    return {check.name: check for check in checks}


def test_a_healthy_machine_exits_with_0(probed: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    doctor.run(as_json=False)
    out = capsys.readouterr().out
    assert "ready to train" in out
    assert "torch" in out


def test_json_is_all_there_is_on_stdout(probed: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    found = run_json(capsys)
    assert found["ok"] is True
    assert {check["state"] for check in found["checks"]} <= {"ok", "warning", "problem"}


def test_a_torchvision_that_does_not_fit_is_named(probed: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    probed["errors"] = {"torchvision": "RuntimeError: operator nms does not exist", "peft": "RuntimeError: same"}
    with pytest.raises(typer.Exit) as stopped:
        doctor.run(as_json=True)
    assert stopped.value.exit_code == 2
    found = json.loads(capsys.readouterr().out)
    check = next(check for check in found["checks"] if check["name"] == "torchvision")
    assert check["state"] == "problem"
    assert "uninstall torchvision" in check["remedy"]


def test_a_probe_that_crashed_is_a_problem(probed: dict[str, Any]) -> None:
    probed.clear()
    probed["failed"] = "importing ended with exit code -11: nothing was said"
    assert by_name(doctor.checks())["imports"].state == "problem"


def test_a_check_that_fails_does_not_end_the_others(
    probed: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> Any:
        raise OSError("no such device")
        yield

    monkeypatch.setattr(doctor, "memory", broken)
    checks = {check["name"]: check for check in run_json(capsys)["checks"]}
    assert "no such device" in checks["memory"]["message"]
    assert "demo model" in checks


def test_a_missing_package_is_a_problem(probed: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "version", lambda name: None if name in ("peft", "matplotlib") else "99.0")
    found = by_name(doctor.checks())
    assert found["peft"].state == "problem"
    assert found["matplotlib"].state == "ok"  # optional
    assert "hfstrat[plots]" in found["matplotlib"].remedy


def test_the_token_is_never_shown(
    probed: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_secret")
    found = run_json(capsys)
    assert "hf_secret" not in json.dumps(found)
    assert next(check for check in found["checks"] if check["name"] == "Hub token")["message"] == "there is one"


def test_offline_is_respected(probed: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(doctor, "_unreachable", lambda url: pytest.fail("the Hub was asked"))
    assert by_name(doctor.checks())["Hub"].state == "ok"


def test_a_quota_below_the_cores_is_a_trap(probed: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    probed["machine"]["cores"] = 64
    monkeypatch.setattr(doctor, "_cpu_quota", lambda: 2.0)
    cores = by_name(doctor.checks())["cores"]
    assert cores.state == "warning"
    assert "train.threads: 2" in cores.remedy


def test_little_memory_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_free_memory", lambda: doctor.GIB)
    assert next(doctor.memory()).state == "warning"


def test_gpus_are_named() -> None:
    gpus = [{"name": "H100", "bytes": 80 * doctor.GIB, "capability": "9.0"}]
    assert [check.message for check in doctor.gpu({**HEALTHY, "gpus": gpus})] == [
        "H100, 80 GiB, compute capability 9.0"
    ]


def test_a_driver_that_torch_cannot_use_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.shutil, "which", lambda name: f"/usr/bin/{name}")
    assert next(doctor.gpu(HEALTHY)).state == "warning"


class TestHub:
    @pytest.mark.parametrize("status", [200, 403, 404])
    def test_whoever_answers_is_reachable(self, status: int, socket_enabled: None) -> None:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.send_response(status)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            assert doctor._unreachable(f"http://127.0.0.1:{server.server_port}") == ""
            server.shutdown()

    def test_a_closed_port_is_not(self, socket_enabled: None) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            port = taken.getsockname()[1]
        assert "refused" in doctor._unreachable(f"http://127.0.0.1:{port}")

    def test_silence_has_a_limit(self, socket_enabled: None, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(doctor, "HUB_SECONDS", 0.2)
        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 0))
            silent.listen()
            assert doctor._unreachable(f"http://127.0.0.1:{silent.getsockname()[1]}")


def test_the_probe_survives_broken_libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Empty stand-ins make it quick; the broken ones are what it is about.
    sources = {
        "torchvision": "raise RuntimeError('operator torchvision::nms does not exist')",
        "peft": "import torchvision",
        "bitsandbytes": "raise OSError('libcudart.so: cannot open')",
        "accelerate": "",
        "transformers": "",
    }
    for name, source in sources.items():
        (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    found = doctor.probe()
    assert set(found["errors"]) == {"torchvision", "peft", "bitsandbytes", "4-bit"}
    assert found["machine"]["cores"] >= 1


def test_the_probe_survives_a_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torch.py").write_text("import os; os._exit(7)")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    assert "exit code 7" in doctor.probe()["failed"]


@pytest.mark.slow
def test_this_environment_has_no_problem(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_json(capsys)["ok"]
