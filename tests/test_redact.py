"""Tokens and passwords are kept out of what is shown, and ordinary words are not touched."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from hfstrat import cli
from hfstrat.errors import RecipeError, RunError, UsageError
from hfstrat.recipe.loading import load
from hfstrat.redact import holds_secret, redact
from hfstrat.verbs.progress import Live, Plain, Quiet
from tests.command import hfstrat

A1 = "aB3dE5gH7jK9mN1pQ3sT5vW7yZ9bC1dE3f"
TOKENS = [
    f"hf_{A1}",
    f"api_org_{A1}",
    f"ghp_{A1}",
    f"gho_{A1}",
    f"github_pat_11ABCDEFG0_{A1}",
    f"sk-{A1}",
    f"sk-proj-{A1}-{A1}",
    f"sk-ant-api03-{A1}_x-AA",
    "AKIAIOSFODNN7EXAMPLE",
    "ASIAIOSFODNN7EXAMPLE",
    "xoxb-123456789012-abcDEF123",
    "xoxp-123456789012-abcDEF123",
]
HARMLESS = [
    "",
    "hf_hub_download of huggingface_hub, hf_transfer and HF_TOKEN",
    "the tokenizer has no [SEP] token; a token is a word or a part of one",
    "sk-learn and sklearn-linear-model-with-a-long-name, scikit-learn==1.7.2",
    "runs/sk-learn-tfidf-baseline",
    "task-classification-with-a-long-name-1234567890",
    "commit 5370764dd2cddbcfcc5c71362229abcdef0123456789, sha256 " + "0f" * 32,
    "https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2",
    "http://localhost:8080/path?mail=me@example.com and ssh://git@github.com/me/x.git",
    "Bearer bonds and bearer tokens of old",
    "/home/me/models/hf_models/bert: 12:30:45",
    "AKIA is short, and MAKIAIOSFODNN7EXAMPLE is another word",
]


@pytest.fixture(autouse=True)
def _no_secrets_of_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if any(word in name for word in ("TOKEN", "SECRET", "PASSWORD", "KEY", "CREDENTIAL")):
            monkeypatch.delenv(name)


@pytest.mark.parametrize("token", TOKENS)
@pytest.mark.parametrize("around", ["{}", "the token {}, it said", "'{}'", "X={}\n", "({})", "?token={}&x=1"])
def test_a_token_is_known_by_its_look(token: str, around: str) -> None:
    text = around.format(token)
    assert holds_secret(text)
    assert redact(text) == around.format("***")
    assert not holds_secret(redact(text))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"Authorization: Bearer {A1}", "Authorization: Bearer ***"),
        ("authorization: bearer abcdefghij.klmnopqrst.uvwxyz", "authorization: bearer ***"),
        ("https://me:pa55word@example.com/x", "https://***@example.com/x"),
        ("https://:pa55word@example.com/x", "https://***@example.com/x"),
        (f"https://user:hf_{A1}@huggingface.co/me/x", "https://***@huggingface.co/me/x"),
        ("postgresql://me:pw@db:5432/x and s3://a:b@c", "postgresql://***@db:5432/x and s3://***@c"),
    ],
)
def test_headers_and_urls_lose_their_secret_alone(text: str, shown: str) -> None:
    assert redact(text) == shown
    assert holds_secret(text)
    assert redact(shown) == shown


@pytest.mark.parametrize("text", HARMLESS)
def test_ordinary_words_stay(text: str) -> None:
    assert redact(text) == text
    assert not holds_secret(text)


@pytest.mark.parametrize(
    "name",
    ["HF_TOKEN", "MY_SECRET", "DB_PASSWORD", "WANDB_API_KEY", "OPENAI_APIKEY", "TOKEN", "AZURE_CREDENTIALS",
     "AWS_SECRET_ACCESS_KEY", "my_token", "SECRET_OF_MINE"],
)  # fmt: skip
def test_the_environment_tells_what_is_secret(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert redact("it is correct-horse, no?") == "it is correct-horse, no?"
    monkeypatch.setenv(name, "correct-horse")
    assert redact("it is correct-horse, no?") == "it is ***, no?"
    assert holds_secret("correct-horse")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TOKENIZERS_PARALLELISM", "true-or-false"),
        ("HF_TOKEN_PATH", "/some/path/of/mine"),
        ("GOOGLE_APPLICATION_CREDENTIALS", "/etc/google/key.json"),
        ("MY_TOKEN_FILE", "token-of-mine.txt"),
        ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1"),
        ("HF_TOKEN", "true"),
        ("HF_TOKEN", ""),
        ("HF_TOKEN", "shorter"),
        ("USE_TOKEN", "required"),
        ("HOME_KEYBOARD", "correct-horse"),
        ("PATH_OF_MINE", "correct-horse"),
    ],
)
def test_settings_and_paths_are_no_secrets(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    text = f"a {value} of ours, true and 1"
    assert redact(text) == text


def test_of_two_secrets_the_longer_one_goes_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_TOKEN", "abcdefgh")
    monkeypatch.setenv("B_TOKEN", "abcdefgh-and-more")
    assert redact("x abcdefgh-and-more y abcdefgh") == "x *** y ***"


@pytest.mark.parametrize(
    "part", ["sk-", "hf_a", "://a", "://a:b", "Bearer ", "xoxb-", "AKIA", "github_pat_a", "sk-a1-"]
)
def test_no_text_takes_long(part: str) -> None:
    start = time.process_time()
    redact(part * (500_000 // len(part)))
    assert time.process_time() - start < 5


# --- where it is used ----------------------------------------------------------------------------------------------


GOOD = {
    "name": "x",
    "model": {"base": "bert"},
    "task": {"kind": "text_classification"},
    "data": {"source": "a.csv"},
    "strategy": {"kind": "head"},
}


@pytest.mark.parametrize("token", TOKENS)
def test_a_recipe_with_a_token_is_refused_without_telling_it(token: str, tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text(f"name: x\nmodel:\n  base: bert\n  config:\n    deep: [1, '{token}']\nnonsense: '{token}'\n")
    with pytest.raises(RecipeError) as caught:
        load(file)
    first, second = map(str, caught.value.problems)
    assert first.startswith(f"{file}:5: model.config.deep.1: this looks like a token or a password")
    assert second.startswith(f"{file}:6: nonsense: ")
    assert "HF_TOKEN" in first
    assert token not in str(caught.value)


def test_a_token_that_is_the_name_of_a_field(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        load({**GOOD, "data": {"source": "a.csv", TOKENS[0]: 1}})
    assert str(caught.value).startswith("recipe: data.***: this looks like a token")


def test_a_value_of_the_environment_in_a_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    load(GOOD, ["model.revision=correct-horse"])
    monkeypatch.setenv("DB_PASSWORD", "correct-horse")
    with pytest.raises(RecipeError, match=r"override: model\.revision: this looks like"):
        load(GOOD, ["model.revision=correct-horse"])


def failing(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def run(_: bool) -> None:
        raise error

    monkeypatch.setattr("hfstrat.verbs.schema.run", run)


@pytest.mark.parametrize(("error", "code"), [(UsageError(f"no {TOKENS[0]}"), 2), (RunError(f"no {TOKENS[0]}"), 3)])
def test_an_error_is_told_without_its_secret(monkeypatch: pytest.MonkeyPatch, error: Exception, code: int) -> None:
    failing(monkeypatch, error)
    done = hfstrat("schema")
    assert (done.code, done.errors) == (code, ["no ***"])


def test_what_nobody_expected_is_a_fault_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, ZeroDivisionError(f"with {TOKENS[0]}"))
    done = hfstrat("schema")
    assert done.code == 1
    assert done.out == ""
    *trace, last = done.err.splitlines()
    assert trace[0] == "Traceback (most recent call last):"
    assert trace[-1] == "ZeroDivisionError: with ***"
    assert last == cli.FAULT
    assert TOKENS[0] not in done.err


def test_a_problem_is_one_line_and_gives_a_terminal_no_orders(monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, UsageError("a label \x1b[2J, \n\u202e and \ud800, but café"))
    assert hfstrat("schema").err == "error: a label \\x1b[2J, \\n\\u202e and \\ud800, but café\n"


def test_what_the_machine_does_not_allow_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, PermissionError(13, "Permission denied", "/x/y"))
    done = hfstrat("schema")
    assert (done.code, done.errors) == (3, ["/x/y: Permission denied"])


@pytest.mark.parametrize("kind", [Plain, Live])
def test_progress_tells_no_secret(kind: type[Plain | Live], capsys: pytest.CaptureFixture[str]) -> None:
    listener, secret = kind(), TOKENS[0]
    with listener.working(f"working with {secret}"):
        pass
    listener.note(f"a note {secret}")
    listener.warn(f"a warning {secret}")
    listener.phase(f"phase {secret}", 2, "texts")
    listener.advance(2, loss=1.0, said=secret)
    listener.scored(f"stage {secret}", "test", {"accuracy": 1.0})
    listener.finished()
    shown = capsys.readouterr()
    assert secret not in shown.err + shown.out
    assert "a note ***" in shown.err
    assert "a warning ***" in shown.err


def test_a_warning_in_quiet_tells_no_secret(capsys: pytest.CaptureFixture[str]) -> None:
    Quiet().warn(f"of {TOKENS[0]}")
    assert capsys.readouterr().err == "warning: of ***\n"
