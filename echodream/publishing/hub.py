"""Upload of folders to the Hugging Face hub, and download of repositories."""

import re
from pathlib import Path

from echodream.errors import UserError

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")


def check_push(push: str | None) -> None:
    """Raise ``UserError`` unless ``push`` is None, or is <namespace>/<name> and there is a token for the hub."""
    if push is None:
        return
    from huggingface_hub import get_token

    if not _REPOSITORY.fullmatch(push):
        raise UserError(f"push={push} is not possible: give <namespace>/<name>, the repository on the hub")
    if not get_token():
        raise UserError(f"push={push} needs a token: set HF_TOKEN or run 'hf auth login', or leave push= out")


def upload(folder: Path, push: str, kind: str, public: bool) -> str:
    """Upload ``folder`` to the repository ``push`` on the Hugging Face hub; ``kind``: "dataset" or "model".

    Returns the URL. Files that are not in ``folder`` are deleted from the repository. Raises ``UserError`` on failure.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        api.create_repo(push, repo_type=kind, private=not public, exist_ok=True)
        if not public and not api.repo_info(push, repo_type=kind).private:
            raise UserError(f"push={push} exists and is public: give another name, or public=true")
        commit = api.upload_folder(
            repo_id=push, repo_type=kind, folder_path=folder, commit_message="echodream", delete_patterns="*"
        )
    except UserError:
        raise
    except Exception as error:
        response = getattr(error.__cause__ if isinstance(error, RuntimeError) else error, "response", None)
        is_refused = getattr(response, "status_code", None) in (401, 403)
        remedy = "check that your token (HF_TOKEN) may write there; " * is_refused
        remedy += f"{folder} is complete, run the same command again"
        raise UserError(f"push={push} was not accepted by the hub ({_error_text(error)}): {remedy}") from error
    return str(getattr(commit, "repo_url", None) or f"https://huggingface.co/{'datasets/' * (kind == 'dataset')}{push}")


def download(repository: str, kind: str, revision: str | None = None) -> Path:
    """Download ``repository``, <namespace>/<name>, unless it is in the cache. ``revision``: branch, tag or commit.

    ``kind``: "dataset" or "model". Returns the folder. Raises ``UserError`` if the download fails.
    """
    from huggingface_hub import snapshot_download

    if not _REPOSITORY.fullmatch(repository):
        raise UserError(f"hub:{repository} is not possible: give hub:<namespace>/<name>, a repository on the hub")
    try:
        return Path(snapshot_download(repository, repo_type=kind, revision=revision))
    except Exception as error:
        remedy = "check the name, the revision, the network and your token (HF_TOKEN)"
        raise UserError(f"hub:{repository} cannot be downloaded ({_error_text(error)}): {remedy}") from error


def _error_text(error: Exception) -> str:
    """First 200 characters of an error of the hub, on one line, without the link to an explanation of the status."""
    cause = f" {error.__cause__}" if isinstance(error, RuntimeError) else ""  # the message names only the file
    return " ".join(re.sub(r"For more information check: \S+", "", f"{error}{cause}").split())[:200]
