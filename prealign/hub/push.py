"""Uploads to the hub: only when a user names a repository, and never half without saying so."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from huggingface_hub import HfApi
from huggingface_hub.errors import LocalTokenNotFoundError, OfflineModeIsEnabled

from prealign.errors import ConfigError, RunError
from prealign.hub.markdown import one_line

REPO = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9])?")
NEVER = ("*.part", ".*", "*/.*")
"""Files that are never sent."""


def check_repo(repo: str) -> None:
    """Look at a repository's name before any work is done.

    Raises:
        ConfigError: It is not OWNER/NAME.
    """
    owner, slash, name = repo.partition("/")
    whole = REPO.fullmatch(owner) and REPO.fullmatch(name) and slash
    if not whole or ".." in repo or "--" in repo or name.endswith(".git"):
        raise ConfigError(
            f"--push {repo!r}: expected OWNER/NAME of letters, digits, '-', '_' and '.', "
            "for example ada/notes"
        )


def push(
    folder: Path,
    repo: str,
    *,
    kind: Literal["dataset", "model"],
    replaces: Sequence[str] = (),
    public: bool = False,
) -> str:
    """Upload a folder and return where it can be seen.

    A new repository is private unless `public`; one that is there keeps how it is. An upload that
    was cut off goes on when the same is asked again: what the hub has is not sent twice.

    Args:
        folder: All of it but hidden and torn files.
        repo: OWNER/NAME.
        kind: What the repository holds.
        replaces: Patterns of files in the repository that go if the folder has them no longer.
        public: Whether a repository that is made now can be seen by all.

    Raises:
        ConfigError: `repo` is not OWNER/NAME.
        RunError: The hub cannot be reached, or refuses; the folder is as it was.
    """
    check_repo(repo)
    again = f"{folder} is whole: give the same command again"
    try:
        api = HfApi(library_name="prealign")
        api.create_repo(repo, repo_type=kind, private=not public, exist_ok=True)
        api.upload_folder(
            repo_id=repo,
            repo_type=kind,
            folder_path=folder,
            commit_message="Upload with prealign",
            delete_patterns=list(replaces) or None,
            ignore_patterns=list(NEVER),
        )
    except OfflineModeIsEnabled as error:
        raise RunError(
            f"--push {repo}: HF_HUB_OFFLINE is set, so nothing was sent; {again} without it"
        ) from error
    except LocalTokenNotFoundError as error:
        raise RunError(
            f"--push {repo}: you are not logged in to the hub, so nothing was sent; run "
            f"`hf auth login` or set HF_TOKEN; {again}"
        ) from error
    except Exception as error:  # of several HTTP libraries, by version; each means: not uploaded
        what = one_line(f"{type(error).__name__}: {error}", 300)
        raise RunError(
            f"--push {repo}: not, or not wholly, uploaded ({what}); {again} when the hub can be "
            "reached and lets you write there, and it goes on"
        ) from error
    return f"https://huggingface.co/{'datasets/' if kind == 'dataset' else ''}{repo}"
