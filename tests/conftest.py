"""What every test shares: no network, a Hugging Face home of its own, tiny models made once a session."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

# Hugging Face libraries read these at import, so they are set before the first of them, and child processes inherit
# them.
_HOME = tempfile.mkdtemp(prefix="hfstrat-tests-")
os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", HF_HOME=_HOME, HFSTRAT_CACHE=f"{_HOME}/hfstrat")

from tests import tiny  # noqa: E402  (after the environment)

# A shared machine is slow at times, and a failure has to come again when it is looked at.
hypothesis.settings.register_profile("hfstrat", deadline=None, derandomize=True)
hypothesis.settings.load_profile("hfstrat")


def pytest_unconfigure() -> None:
    shutil.rmtree(_HOME, ignore_errors=True)


@pytest.fixture(autouse=True)
def _empty_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test finds in the cache of frozen layers is what it has put there."""
    monkeypatch.setenv("HFSTRAT_CACHE", tempfile.mkdtemp(prefix="cache-", dir=_HOME))


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Tiny tensors gain nothing from threads, and one thread keeps results bit for bit."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`tiny_base("bert", num_hidden_layers=3)`: the folder of a tiny base, made once a session. Do not write to it."""
    made: dict[str, Path] = {}

    def make(family: str, **options: Any) -> Path:
        key = repr((family, sorted(options.items())))
        if key not in made:
            made[key] = tiny.base(family, tmp_path_factory.mktemp(f"tiny-{family}-"), **options)
        return made[key]

    return make


@pytest.fixture(scope="session")
def user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Somebody without hfstrat: `user.run(elsewhere.program(run, …))` gives what the lines of a card say."""
    from tests.elsewhere import User

    found = User(tmp_path_factory.mktemp("user"))
    yield found
    assert found.leave() == 0


@pytest.fixture(scope="session")
def reviews_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CSV file of 120 two-class reviews with the columns text and label. Do not write to it."""
    return tiny.write_csv(tmp_path_factory.mktemp("reviews") / "reviews.csv", tiny.reviews(120))


@pytest.fixture(scope="session")
def trained(tiny_base: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """`trained("bert", "lora", pooling="mean")`: a finished run, trained once a session. Do not write to it."""
    from tests.training import helpers

    made: dict[str, Any] = {}

    def make(family: str, strategy: str, **task: Any) -> Any:
        key = repr((family, strategy, sorted(task.items())))
        if key not in made:
            given = helpers.recipe(tiny_base(family, **helpers.LIVELY), strategy, task=task)
            made[key] = helpers.train(given, tiny.reviews(40), tmp_path_factory.mktemp(f"{family}-{strategy}-"))
        return made[key]

    return make
