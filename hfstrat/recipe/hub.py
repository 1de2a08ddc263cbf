"""Where a run goes on the Hub."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from hfstrat.spec import Spec

RepoId = Annotated[str, Field(pattern=r"^(?:[A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*$", max_length=96)]


class HubSpec(Spec):
    """The repository that `hfstrat push` sends a run to, and what its card says; training reads none of it."""

    repo_id: RepoId | None = None
    """`user/name` or `organisation/name`; a name alone is one of yours."""

    private: bool = True
    """Whether a new repository is seen by you alone, or by your organisation."""

    license: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")] | None = None
    """Licence of the model as the Hub names it, such as `apache-2.0`; left out: the card names none."""

    language: tuple[Annotated[str, Field(pattern=r"^[A-Za-z]{2,8}(?:-[A-Za-z0-9]+)*$")], ...] = ()
    """Languages of the texts, such as `[en, de]`."""
