"""Where a run is to go: whether the token may write there, and what is there already. Nothing is changed by asking."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hfstrat.errors import Problem, UsageError
from hfstrat.hub.contents import DESCRIPTION
from hfstrat.hub.talking import LOG_IN, ask, said, status_of
from hfstrat.runs.events import Observer

if TYPE_CHECKING:
    from huggingface_hub import HfApi

MAIN = "main"
WRITES = frozenset({"admin", "write", "contributor"})
"""Roles in an organisation that may make repositories there."""
OF_EVERY_REPOSITORY = frozenset({".gitattributes", ".gitignore", "README.md", "LICENSE", "LICENSE.md", "LICENSE.txt"})
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Target:
    """A branch of a repository that may be written.

    Args:
        repo_id: `user/name`.
        branch: The branch.
        exists: Whether the repository is there.
        has_branch: Whether the branch is there.
        private: Whether the repository is private, or will be.
        held: Names of its files on the branch.
        ours: Those that an earlier push has sent.
    """

    repo_id: str
    branch: str
    exists: bool
    has_branch: bool
    private: bool
    held: frozenset[str] = frozenset()
    ours: frozenset[str] = frozenset()


def whose(api: HfApi, observer: Observer | None = None) -> dict[str, Any]:
    """Whom the token belongs to, and what it may do.

    Raises:
        UsageError: There is no token, or it is not accepted.
        HubError: The Hub cannot be asked.
    """
    from huggingface_hub import get_token

    if not get_token():
        raise UsageError(Problem("there is no token for the Hub", hint=LOG_IN))
    return ask(api.whoami, "who the token belongs to", observer)


def find(
    api: HfApi,
    name: str,
    branch: str = MAIN,
    *,
    private: bool | None = None,
    field: str = "",
    observer: Observer | None = None,
) -> Target:
    """Find out whether a repository may be written, and what is there.

    Args:
        api: The Hub.
        name: `user/name`, or a name alone.
        branch: The branch to write to.
        private: Whether it is to be private; None: as it is, and private where it is new.
        field: Where the recipe names it.
        observer: Hears of waiting.

    Raises:
        UsageError: It may not; all problems at once.
        HubError: The Hub cannot be asked.
    """
    account = whose(api, observer)
    repo_id = name if "/" in name else f"{account['name']}/{name}"
    problem = rights(account, repo_id)
    problems = [] if problem is None else [Problem(problem[0], field, hint=problem[1])]
    info = _info(api, repo_id, observer)
    if isinstance(info, Problem):
        raise UsageError([*problems, Problem(info.message, field, hint=info.hint)])
    if info is None:
        taken = _data_set(api, repo_id, observer)
        if taken:
            hint = "Choose another name, or the two are taken for one another"
            problems.append(Problem(f"{repo_id} is a data set", field, hint=hint))
        if problems:
            raise UsageError(problems)
        return Target(repo_id, branch, False, branch == MAIN, private is not False)
    if not problems:  # what the server says itself counts more than what a token says of itself
        problems += _writable(api, repo_id, field, observer)
    problems += _visible(repo_id, bool(info.private), private, field)
    if problems:
        raise UsageError(problems)
    return _looked_at(api, repo_id, branch, bool(info.private), observer)


def rights(account: Mapping[str, Any], repo_id: str) -> tuple[str, str] | None:
    """Why a token may not write a repository, and what to do; None where it may, or does not say."""
    owner, name = repo_id.split("/")[0], str(account["name"])
    token = (account.get("auth") or {}).get("accessToken") or {}
    role = token.get("role")
    if role == "read":
        return f"the token of {name} may only read", "Make one that may write, under Settings → Access Tokens"
    if role == "fineGrained":
        scopes = (token.get("fineGrained") or {}).get("scoped") or []
        allowed = {
            str((one.get("entity") or {}).get("name")).casefold()
            for one in scopes
            if "repo.write" in (one.get("permissions") or [])
        }
        if not {owner.casefold(), repo_id.casefold()} & allowed:
            return f"the token of {name} may not write to {owner}", "Give it the right to write there in its settings"
        return None
    if owner.casefold() == name.casefold():
        return None
    roles = {str(one["name"]).casefold(): one.get("roleInOrg") for one in account.get("orgs") or []}
    if owner.casefold() not in roles:
        known = ", ".join([name, *(str(one["name"]) for one in account.get("orgs") or [])])
        return f"{name} may not write to {owner}", f"The token may write to: {known}"
    held = roles[owner.casefold()]
    if held is not None and held not in WRITES:
        return f"{name} may only {held} in {owner}", f"Ask an administrator of {owner} for the right to write"
    return None


def _info(api: HfApi, repo_id: str, observer: Observer | None) -> Any:
    """What is known about a model's repository; None where there is none; a Problem where it cannot be used."""
    from huggingface_hub import errors

    def call() -> Any:
        try:
            return api.model_info(repo_id)
        except errors.GatedRepoError:
            return Problem(f"{repo_id} is gated, and the token has no access", hint="Choose another name")
        except errors.DisabledRepoError:
            return Problem(f"{repo_id} is disabled", hint="Choose another name")
        except errors.RepositoryNotFoundError:
            return None
        except errors.HFValidationError as error:
            return Problem(f"'{repo_id}' is no name of a repository: {said(error)}", hint="Write user/name")

    return ask(call, f"the model {repo_id}", observer)


def _data_set(api: HfApi, repo_id: str, observer: Observer | None) -> bool:
    from huggingface_hub import errors

    def call() -> bool:
        try:
            api.dataset_info(repo_id, expand=["sha"])
        except errors.GatedRepoError:
            return True
        except errors.RepositoryNotFoundError:
            return False
        return True

    return ask(call, f"the data set {repo_id}", observer)


def _writable(api: HfApi, repo_id: str, field: str, observer: Observer | None) -> list[Problem]:
    from huggingface_hub import errors

    def call() -> list[Problem]:
        try:
            api.auth_check(repo_id, write=True)
        except errors.GatedRepoError:
            return [Problem(f"{repo_id} is gated, and the token has no access", field, hint="Choose another name")]
        except errors.HfHubHTTPError as error:
            if status_of(error) not in (401, 403, 404):
                raise
            hint = "Use a token that may write there, or choose another name"
            return [Problem(f"the token may not write to {repo_id}: {said(error)}", field, hint=hint)]
        return []

    return ask(call, f"the right to write to {repo_id}", observer)


def _visible(repo_id: str, is_private: bool, wanted: bool | None, field: str) -> list[Problem]:
    """A visibility is never changed by the way."""
    if wanted is None or wanted == is_private:
        return []
    if wanted:
        hint = "Add --public (hub.private: false), choose another name, or make it private in its settings"
        return [Problem(f"{repo_id} is there and public", field, hint=hint)]
    hint = "Leave --public (hub.private: false) out, and make it public in its settings"
    return [Problem(f"{repo_id} is there and private", field, hint=hint)]


def _looked_at(api: HfApi, repo_id: str, branch: str, private: bool, observer: Observer | None) -> Target:
    """A repository that may be written, with what its branch holds."""
    refs = ask(lambda: api.list_repo_refs(repo_id), f"the branches of {repo_id}", observer)
    branches = {one.name for one in refs.branches}
    if branch in {one.name for one in refs.tags} or _COMMIT.fullmatch(branch):
        what = f"'{branch}' is a tag of {repo_id}" if not _COMMIT.fullmatch(branch) else f"'{branch}' is a commit"
        raise UsageError(Problem(what, hint="Name a branch, which can be written to"))
    has = branch in branches or (branch == MAIN and not branches)
    revision = branch if has else MAIN  # which a new branch begins from
    held = frozenset(held_in(api, repo_id, revision, observer))
    ours = _sent_before(api, repo_id, revision, observer) if DESCRIPTION in held else frozenset()
    foreign = sorted(held - OF_EVERY_REPOSITORY - ours)
    if foreign and not ours:
        listed = ", ".join(foreign[:3]) + ("…" if len(foreign) > 3 else "")
        hint = "Choose another name, or remove them on the Hub first"
        raise UsageError(Problem(f"{repo_id} holds files that hfstrat did not send: {listed}", hint=hint))
    return Target(repo_id, branch, True, has, private, held, ours & held)


def held_in(api: HfApi, repo_id: str, revision: str, observer: Observer | None = None) -> list[str]:
    """Names of the files on a branch."""
    from huggingface_hub.hf_api import RepoFile

    def call() -> list[str]:
        found = api.list_repo_tree(repo_id, recursive=True, revision=revision)
        return [entry.path for entry in found if isinstance(entry, RepoFile)]

    return ask(call, f"the files of {repo_id}", observer)


def _sent_before(api: HfApi, repo_id: str, revision: str, observer: Observer | None) -> frozenset[str]:
    """Names that an earlier push has written down."""

    def call() -> str:
        with tempfile.TemporaryDirectory(prefix="hfstrat-push-") as folder:
            file = api.hf_hub_download(repo_id, DESCRIPTION, revision=revision, local_dir=folder)
            return Path(file).read_text("utf-8")

    try:
        found = json.loads(ask(call, f"{DESCRIPTION} of {repo_id}", observer))["files"]
        return frozenset(str(name) for name in found)
    except (ValueError, KeyError, TypeError) as error:
        hint = "Choose another name, or remove that file on the Hub first"
        raise UsageError(Problem(f"{repo_id} holds a {DESCRIPTION} that is none of hfstrat's", hint=hint)) from error
