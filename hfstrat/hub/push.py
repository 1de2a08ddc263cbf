"""Push: a finished run becomes a repository on the Hub, in one commit or not at all."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hfstrat.errors import HubError, Problem, UsageError
from hfstrat.hub.contents import CARD, Content, Facts, contents, problems_of
from hfstrat.hub.talking import api, ask, is_offline, said, silent
from hfstrat.hub.target import MAIN, Target, find, held_in
from hfstrat.report.notebook import as_html
from hfstrat.report.tables import size
from hfstrat.runs.events import Observer

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from rich.console import RenderableType

OFFLINE = Problem("HF_HUB_OFFLINE is set, so nothing can be sent", hint="Unset it, or add --dry-run")


@dataclass(frozen=True)
class Sent:
    """A file that was sent, or would be.

    Args:
        path: Its name in the repository.
        size: Bytes.
    """

    path: str
    size: int


@dataclass(frozen=True)
class Pushed:
    """What a push did, or with `dry_run` would do.

    Args:
        repo_id: The repository.
        url: Its page.
        branch: The branch that was written.
        private: Whether the repository is private.
        created: Whether the repository is new.
        files: What was sent, by name.
        deleted: What an earlier push had sent and this one took away.
        commit: The commit that has all of it; None where nothing was sent.
        changed: Whether it is another commit than the one that was there; None where nothing was sent.
        checked: Whether the Hub was asked; only a dry run without network is not.
    """

    repo_id: str
    url: str
    branch: str
    private: bool
    created: bool
    files: tuple[Sent, ...] = field(repr=False)
    deleted: tuple[str, ...]
    commit: str | None = None
    changed: bool | None = None
    checked: bool = True

    @property
    def dry_run(self) -> bool:
        """Whether nothing was sent."""
        return self.commit is None

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    def __str__(self) -> str:
        what = f"{len(self.files)} files, {size(self.size)}"
        where = f"{'private' if self.private else 'public'}{', new' if self.created and self.checked else ''}"
        if self.dry_run:
            asked = "" if self.checked else "; HF_HUB_OFFLINE is set, so nothing was asked of the Hub"
            return f"dry run, nothing was sent: {what} would go to {self.url} ({where}{asked})"
        if not self.changed:
            return f"nothing has changed since the last push: {self.url} ({where})"
        return f"{what} sent in one commit: {self.url} ({where})"

    def __rich__(self) -> RenderableType:
        """The files, and where they are."""
        from rich import box
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), header_style="bold")
        table.add_column("file")
        table.add_column("size", justify="right")
        for file in self.files:
            table.add_row(Text(file.path), size(file.size))
        return Group(table, Text(str(self)))

    def _repr_html_(self) -> str:
        return as_html(self)


def push(
    run: str | Path,
    repo_id: str | None = None,
    *,
    private: bool | None = None,
    branch: str = MAIN,
    message: str | None = None,
    with_base: bool = False,
    published_as: str | None = None,
    dry_run: bool = False,
    observer: Observer | None = None,
) -> Pushed:
    """Send a finished run to the Hub.

    Args:
        run: Its directory.
        repo_id: `user/name`, or a name alone; None: as its recipe says.
        private: Whether the repository is private; None: as its recipe says.
        branch: The branch to write; it begins from main where it is new.
        message: Of the commit.
        with_base: Merge an adapter into a base that nobody else has, and send the whole model.
        published_as: Public id of the base; None: as its recipe says.
        dry_run: Check everything and send nothing.
        observer: Hears what happens.

    Raises:
        UsageError: The run cannot be sent, or the token may not write there; nothing was sent.
        HubError: The Hub could not be reached, or did not take it; no file of it can be seen there.
    """
    observer = observer or Observer()
    if is_offline() and not dry_run:
        raise UsageError(OFFLINE)
    facts = Facts.of(run, published_as)
    asked = facts.resolved.get("hub") or {}
    private = bool(asked.get("private", True)) if private is None else private
    name, hub = repo_id or asked.get("repo_id"), api()
    problems, target = [*problems_of(facts, with_base=with_base)], None
    for one in (name, facts.base if facts.adapter else None):
        problems += [] if one is None else _wrong_name(str(one))
    if name is None:
        problems.append(Problem("nothing says where to", hint="Name user/name, or set hub.repo_id in the recipe"))
    elif not _wrong_name(name):
        target, wrong = _target(hub, facts, name, branch, private, observer)
        problems += [*_unfit(facts, name, branch), *wrong]
    if problems:
        raise UsageError(dict.fromkeys(problems))
    assert target is not None, "without a problem there is somewhere to go"
    with ExitStack() as stack:
        merged = stack.enter_context(_merged(facts, observer)) if with_base else None
        files = contents(facts, target.repo_id, branch=branch, merged=merged)
        gone = sorted(target.ours - {file.path for file in files})
        found = _described(hub, target, files, gone, checked=not is_offline())
        if dry_run:
            return found
        _check_card(files, observer)
        kind = facts.plan.get("kind") or facts.resolved["strategy"]["kind"]
        return _sent(hub, found, target, files, message or f"{facts.run.name}: {kind} by hfstrat", observer)


def _unfit(facts: Facts, name: str, branch: str) -> Sequence[Problem]:
    """What of a run must not be sent, wherever to."""
    try:
        contents(facts, name, branch=branch)
    except UsageError as error:
        return error.problems
    return ()


def _check_card(files: Sequence[Content], observer: Observer) -> None:
    """Let the Hub look at the card before there is a repository: it refuses a licence that it does not know."""
    from huggingface_hub import ModelCard

    (text,) = (file.source for file in files if file.path == CARD)
    assert isinstance(text, bytes), "the card was made for this push"
    try:
        ask(ModelCard(text.decode()).validate, "a look at the card", observer)
    except ValueError as error:
        hint = "Correct hub.license and hub.language of the recipe"
        raise UsageError(Problem(f"the Hub does not take the card: {said(error)}", "hub", hint=hint)) from error


def _wrong_name(name: str) -> list[Problem]:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        hint = "Write user/name, of letters, digits, '-', '_' and '.'"
        return [Problem(f"'{name}' is no name of a repository", hint=hint)]
    return []


def _target(
    hub: HfApi, facts: Facts, name: str, branch: str, private: bool, observer: Observer
) -> tuple[Target | None, list[Problem]]:
    """Where it goes, or why it cannot go there."""
    if is_offline():
        return Target(name, branch, False, True, private), []
    try:
        found = find(hub, name, branch, private=private, observer=observer)
    except UsageError as error:
        return None, [*error.problems]
    return found, [*_base(hub, facts, observer)]


def _base(hub: HfApi, facts: Facts, observer: Observer) -> Iterator[Problem]:
    """Whether others find the base of an adapter."""
    from huggingface_hub import errors

    if not facts.adapter or facts.base is None or _wrong_name(facts.base):
        return
    base, revision = facts.base, facts.revision

    def call() -> Problem | None:
        try:
            hub.model_info(base, revision=revision, expand=["sha"])
        except errors.GatedRepoError:
            return None  # it is there
        except errors.RepositoryNotFoundError:
            hint = "Correct its name by --published-as, or add --with-base"
            return Problem(f"the base {base} is not on the Hub", "model.published_as", hint=hint)
        except errors.RevisionNotFoundError:
            return Problem(f"the base {base} has no revision '{revision}' on the Hub", "model.revision")
        return None

    found = ask(call, f"the base {base}", observer)
    if found is not None:
        yield found


@contextmanager
def _merged(facts: Facts, observer: Observer) -> Iterator[Path]:
    from hfstrat.hub.merging import merge

    with tempfile.TemporaryDirectory(prefix="hfstrat-push-") as folder:
        difference = merge(facts.run, Path(folder))
        observer.note(f"merged the adapter into its base; outputs moved by {difference:.1g} of their size at most")
        yield Path(folder)


def _described(hub: HfApi, target: Target, files: Sequence[Content], gone: Sequence[str], *, checked: bool) -> Pushed:
    sent = tuple(Sent(file.path, file.size) for file in files)
    url = f"{hub.endpoint}/{target.repo_id}" + (f"/tree/{target.branch}" if target.branch != MAIN else "")
    created = not target.exists
    return Pushed(target.repo_id, url, target.branch, target.private, created, sent, tuple(gone), checked=checked)


def _sent(
    hub: HfApi, found: Pushed, target: Target, files: Sequence[Content], message: str, observer: Observer
) -> Pushed:
    """Send everything. What has to be there before the commit is empty, so there is never a half repository."""
    repo_id, branch = target.repo_id, target.branch
    if not target.exists:
        ask(
            lambda: hub.create_repo(repo_id, private=target.private, exist_ok=True),
            f"a new repository {repo_id}",
            observer,
        )
    if not target.has_branch:
        ask(lambda: hub.create_branch(repo_id, branch=branch, exist_ok=True), f"a new branch {branch}", observer)

    heads: list[str] = []

    def commit() -> Any:
        # All of it is found out anew: an attempt whose answer was lost may have made the commit, and then everything
        # is there already, and huggingface_hub makes none.
        heads.append(str(hub.model_info(repo_id, revision=branch).sha))
        operations = _operations(files, target.ours.intersection(held_in(hub, repo_id, branch)))
        return hub.create_commit(repo_id, operations, commit_message=message, revision=branch, parent_commit=heads[-1])

    observer.note(f"sending {len(files)} files, {size(found.size)}, to {found.url}")
    try:
        with silent():
            made = ask(commit, f"a commit to {repo_id}", observer)
    except HubError as error:
        if target.exists:
            raise
        raise HubError(f"{error}. {repo_id} is there by now, and empty; pushing again fills it") from error
    return replace(found, commit=made.oid, changed=made.oid != heads[0])


def _operations(files: Sequence[Content], ours: frozenset[str]) -> list[Any]:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    additions = [CommitOperationAdd(file.path, file.source) for file in files]
    gone = sorted(ours - {file.path for file in files})
    return [*additions, *(CommitOperationDelete(path) for path in gone)]
