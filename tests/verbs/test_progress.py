from __future__ import annotations

import io
import re
from types import SimpleNamespace

import pytest
from rich.console import Console
from rich.table import Table

from hfstrat.verbs import progress
from hfstrat.verbs.progress import Listener, Live, Notebook, Phase, Plain, Quiet, observer, show

DECISIONS = [
    SimpleNamespace(path="train.lr", value=1e-4, reason="full fine-tuning of 22 M parameters"),
    SimpleNamespace(path="evaluate.metrics", value=["accuracy", "f1_macro"], reason="the usual [ones]"),
    SimpleNamespace(path="task.normalize", value=True, reason="declared"),
]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock that stands still until a test moves it: `clock.now += 3`."""
    hands = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: hands.now))
    return hands


def live() -> tuple[Live, io.StringIO]:
    screen = io.StringIO()
    return Live(Console(file=screen, force_terminal=True, width=120, color_system=None)), screen


def whole_run(listener: Listener) -> None:
    """Everything that a run tells, and what it should not do but may."""
    with listener.working("loading [torch]"):
        pass
    listener.advance(1)  # before any phase
    listener.decided(DECISIONS)
    listener.decided([])
    listener.note("12 tensors train")
    listener.warn("3 texts were cut")
    listener.phase("features", None, "texts")
    listener.advance(32)
    listener.phase("fit", 100, "updates")  # the one before never finished
    with listener.working("measuring"):
        listener.advance(40)
    listener.advance(0, loss=0.25, lr=1e-4, other=None)
    listener.scored("fit", "validation", {"accuracy": 0.5, "f1_macro": None})
    listener.advance(90)  # more than was announced
    listener.phase("empty", 0, "texts")
    listener.advance(0)
    listener.scored("sealed", "test", {"accuracy": 0.75})
    listener.finished()
    listener.finished()
    listener.advance(1)
    listener.phase("again", 1, "texts")  # a listener may hear of several runs
    listener.advance(1)
    listener.finished()


class TestPlain:
    def test_tells_the_whole_run_on_stderr_in_lines(self, capsys: pytest.CaptureFixture[str]) -> None:
        whole_run(Plain())
        out, err = capsys.readouterr()
        assert out == ""
        assert "\r" not in err
        assert "\x1b" not in err
        lines = err.splitlines()
        assert "loading [torch]" in lines
        assert "auto: train.lr = 0.0001  (full fine-tuning of 22 M parameters)" in lines
        assert "auto: evaluate.metrics = [accuracy, f1_macro]  (the usual [ones])" in lines
        assert "auto: task.normalize = true  (declared)" in lines
        assert "warning: 3 texts were cut" in lines
        assert "fit, validation at 40/100 updates: accuracy 0.5000  f1_macro undefined" in lines
        assert "sealed, test: accuracy 0.7500" in lines
        assert any(line.startswith("fit: 100%, 130/130 updates") and "loss 0.25  lr 0.0001" in line for line in lines)

    def test_a_quick_phase_is_two_lines(self, clock: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
        listener = Plain()
        listener.phase("fit", 1000, "updates")
        for _ in range(1000):
            clock.now += 0.001
            listener.advance(1)
        assert len(capsys.readouterr().err.splitlines()) == 2

    def test_a_phase_of_minutes_shows_its_quarters(
        self, clock: SimpleNamespace, capsys: pytest.CaptureFixture[str]
    ) -> None:
        listener = Plain()
        listener.phase("fit", 100, "updates")
        for _ in range(100):
            clock.now += 0.25
            listener.advance(1)
        lines = capsys.readouterr().err.splitlines()
        assert [line.split()[1] for line in lines[1:]] == ["25%,", "50%,", "75%,", "100%,"]
        assert lines[2] == "fit: 50%, 50/100 updates, 4.0/s, 0:12 elapsed, 0:12 left"

    def test_a_slow_phase_is_heard_of_every_ten_seconds(
        self, clock: SimpleNamespace, capsys: pytest.CaptureFixture[str]
    ) -> None:
        listener = Plain()
        listener.phase("fit", 10_000, "updates")
        for _ in range(100):
            clock.now += 1.0
            listener.advance(1)
        assert len(capsys.readouterr().err.splitlines()) == 11

    def test_a_day_does_not_fill_the_log(self, clock: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
        listener = Plain()
        listener.phase("fit", None, "updates")
        for _ in range(24 * 3600):
            clock.now += 1.0
            listener.advance(1)
        assert 20 < len(capsys.readouterr().err.splitlines()) < 200

    def test_the_rate_is_that_since_a_run_goes_on(
        self, clock: SimpleNamespace, capsys: pytest.CaptureFixture[str]
    ) -> None:
        listener = Plain()
        listener.phase("fit", 100, "updates", 60)
        clock.now += 10.0
        listener.advance(20)
        assert capsys.readouterr().err.splitlines() == [
            "fit: 100 updates, 60 of them done before",
            "fit: 80%, 80/100 updates, 2.0/s, 0:10 elapsed, 0:10 left",
        ]


class TestLive:
    @pytest.mark.parametrize("width", [80, 120])
    def test_decisions_and_bars_have_room(self, width: int) -> None:
        screen = io.StringIO()
        listener = Live(Console(file=screen, force_terminal=True, width=width, color_system=None))
        listener.decided(DECISIONS)
        listener.phase("fit", 1250, "updates")
        listener.advance(312, loss=0.2134567, lr=1.852e-05)
        listener.finished()
        text = screen.getvalue()
        assert "train.lr = 0.0001 (full fine-tuning of 22 M parameters)" in re.sub(" +", " ", text)
        assert "312/1,250 updates" in text
        assert re.search(r"\d:\d\d:\d\d", text), "time is not cut"
        assert max(map(len, re.split(r"[\r\n]", re.sub(r"\x1b\[[^a-zA-Z]*[a-zA-Z]", "", text)))) <= width

    def test_tells_the_whole_run(self) -> None:
        listener, screen = live()
        whole_run(listener)
        text = screen.getvalue()
        for part in (
            "= [accuracy, f1_macro]",
            "(the usual [ones])",
            "warning: 3 texts were cut",
            "fit, validation at 40/100 updates: accuracy 0.5000  f1_macro undefined",
            "130/130 updates",
            "loss 0.25  lr 0.0001",
            "sealed, test: accuracy 0.7500",
        ):
            assert part in text

    def test_gives_the_cursor_back(self) -> None:
        listener, screen = live()
        whole_run(listener)
        hide, give_back = "\x1b[?25l", "\x1b[?25h"
        assert screen.getvalue().count(hide) == screen.getvalue().count(give_back) > 0

    def test_an_error_ends_the_spinner(self) -> None:
        listener, screen = live()

        def fail() -> None:
            with listener.working("loading"):
                raise ValueError("no torch")

        with pytest.raises(ValueError, match="no torch"):
            fail()
        assert "\x1b[?25h" in screen.getvalue()  # the cursor is back


class TestQuiet:
    def test_shows_warnings_only(self, capsys: pytest.CaptureFixture[str]) -> None:
        whole_run(Quiet())
        assert capsys.readouterr() == ("", "warning: 3 texts were cut\n")


class TestChoice:
    def test_lines_without_a_terminal(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert type(observer()) is Plain
        assert type(observer(quiet=True)) is Quiet

    @pytest.mark.parametrize(("term", "kind"), [("xterm", Live), ("dumb", Plain), ("", Plain)])
    def test_bars_on_a_terminal_that_can_draw(self, term: str, kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(progress.sys, "stderr", SimpleNamespace(isatty=lambda: True))
        monkeypatch.setenv("TERM", term)
        assert type(observer()) is kind

    def test_one_output_in_a_notebook(self, monkeypatch: pytest.MonkeyPatch) -> None:
        kernel = type("ZMQInteractiveShell", (), {})()
        monkeypatch.setitem(progress.sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: kernel))
        assert type(observer()) is Notebook
        assert type(observer(quiet=True)) is Quiet

    def test_one_process_speaks_for_all(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("RANK", "1")
        whole_run(observer())
        assert capsys.readouterr() == ("", "")
        monkeypatch.setenv("RANK", "0")
        assert type(observer()) is Plain


class TestShow:
    def test_text_goes_to_stdout_untouched(self, capsys: pytest.CaptureFixture[str]) -> None:
        line = "[bold] " + "x" * 300
        show(line)
        assert capsys.readouterr() == (line + "\n", "")

    def test_tables_are_not_cut_to_a_narrow_terminal_in_files(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("COLUMNS", raising=False)
        table = Table("a" * 100)
        show(table)
        out, err = capsys.readouterr()
        assert "a" * 100 in out
        assert err == ""


def test_slow_work_has_seconds_for_each(clock: SimpleNamespace) -> None:
    phase = Phase("load", None, "shards")
    clock.now += 9
    phase.advance(2, {})
    assert phase.line() == "load: 2 shards, 4.5 s each, 0:09 elapsed"


class TestSay:
    def test_a_terminal_parts_sentences_between_words(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("COLUMNS", "40")
        text = "\nwrote my.yaml\n  'label' is the label, of which there are 2\n" + "a/long/path/" * 5
        progress.say(text)
        assert capsys.readouterr().out == text + "\n", "a file has it as it is"
        monkeypatch.setattr("sys.stdout.isatty", lambda: True)
        progress.say(text)
        lines = capsys.readouterr().out.splitlines()
        assert lines == ["", "wrote my.yaml", "  'label' is the label, of which there", "are 2", "a/long/path/" * 5]


class TestNotebook:
    @pytest.fixture
    def drawn(self, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
        """What a cell showed, each state of its one output after the other."""
        shown: list[dict[str, str]] = []

        def display(content: dict[str, str], *, raw: bool, display_id: bool) -> SimpleNamespace:
            assert not shown, "one output in all"
            shown.append(content)
            return SimpleNamespace(update=lambda content, raw: shown.append(content))

        monkeypatch.setattr("IPython.display.display", display)
        return shown

    def test_tells_the_whole_run_in_one_output(
        self, drawn: list[dict[str, str]], capsys: pytest.CaptureFixture[str]
    ) -> None:
        whole_run(Notebook())
        assert capsys.readouterr() == ("", "")
        lines = drawn[-1]["text/plain"].splitlines()
        assert lines[:2] == ["loading [torch]", "auto: train.lr = 0.0001  (full fine-tuning of 22 M parameters)"]
        assert "fit, validation at 40/100 updates: accuracy 0.5000  f1_macro undefined" in lines
        assert any(line.startswith("fit: 100%, 130/130 updates") and "loss 0.25  lr 0.0001" in line for line in lines)
        assert lines[-1].startswith("again: 100%, 1/1 texts")

    def test_the_last_lines_and_warnings_stay_in_sight(self, drawn: list[dict[str, str]]) -> None:
        whole_run(Notebook())
        folded, _, seen = drawn[-1]["text/html"].partition("</details>")
        assert "12 tensors train" in folded
        assert "12 tensors train" not in seen
        assert "<b>warning: 3 texts were cut</b>" in seen
        assert "again: 100%, 1/1 texts" in seen
        assert "<progress" not in seen  # nothing moves any more
        assert f"{len(drawn[-1]['text/plain'].splitlines()) - progress.LAST_LINES} lines before" in folded

    def test_a_bar_moves_and_is_not_drawn_for_each_step(
        self, clock: SimpleNamespace, drawn: list[dict[str, str]]
    ) -> None:
        listener = Notebook()
        listener.phase("fit", 1000, "updates")
        for _ in range(1000):
            clock.now += 0.001
            listener.advance(1)
        assert 2 < len(drawn) < 10
        shares = [int(re.search(r'<progress value="(\d+)" max="1000"', one["text/html"])[1]) for one in drawn]  # type: ignore[index]
        assert shares == sorted(shares)
        assert shares[-1] > 700

    def test_what_others_wrote_is_text(self, drawn: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MY_TOKEN", "secret-of-mine")
        listener = Notebook()
        listener.note("<script>secret-of-mine\x1b[2J")
        listener.phase("<i>", 3, "texts")
        assert "&lt;script&gt;***\\x1b[2J" in drawn[-1]["text/html"]
        assert "&lt;i&gt;" in drawn[-1]["text/html"]
        assert "<script" not in drawn[-1]["text/html"]
        assert "<i>" not in drawn[-1]["text/html"]
