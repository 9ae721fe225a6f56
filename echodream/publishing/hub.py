"""Upload of a folder to the Hugging Face hub, and download."""

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

    Returns the URL. Other files of the repository are deleted. Raises ``UserError`` if the hub refuses the upload.
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
        reason = " ".join(str(error).split())[:200]
        remedy = f"{folder} is complete, run the same command again"
        raise UserError(f"push={push} was not accepted by the hub ({reason}): {remedy}") from error
    return str(getattr(commit, "repo_url", None) or f"https://huggingface.co/{'datasets/' * (kind == 'dataset')}{push}")


def download(repository: str, kind: str, revision: str | None = None) -> Path:
    """Download ``repository``, <namespace>/<name>, at a branch, tag or commit, unless it is in the hub's cache.

    ``kind``: "dataset" or "model". Returns the folder. Raises ``UserError`` if the hub cannot be reached, or refuses.
    """
    from huggingface_hub import snapshot_download

    if not _REPOSITORY.fullmatch(repository):
        raise UserError(f"hub:{repository} is not possible: give hub:<namespace>/<name>, a repository on the hub")
    try:
        return Path(snapshot_download(repository, repo_type=kind, revision=revision))
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        remedy = "check the name, the revision, the network and your token (HF_TOKEN)"
        raise UserError(f"hub:{repository} cannot be downloaded ({reason}): {remedy}") from error
