"""The way to the Hugging Face hub: the one thing here that needs a network."""

import re
from pathlib import Path

from echodream.errors import UserError

_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")


def check_push(push: str | None) -> None:
    """Raise ``UserError`` where ``push`` is no <namespace>/<name>, or nobody is logged in, before any work is done."""
    if push is None:
        return
    from huggingface_hub import get_token

    if not _NAME.fullmatch(push):
        raise UserError(f"push={push} is not possible: give <namespace>/<name>, as it shall be called on the hub")
    if not get_token():
        raise UserError(f"push={push} needs a token: set HF_TOKEN or run 'hf auth login', or leave push= out")


def upload(folder: Path, push: str, kind: str, public: bool) -> str:
    """Send ``folder`` to the repository ``push`` of ``kind`` "dataset" or "model"; its address.

    Raises ``UserError`` when the hub does not take it. What is there and is not in ``folder`` is removed, so that the
    repository is what was checked.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        api.create_repo(push, repo_type=kind, private=not public, exist_ok=True)
        if not public and not api.repo_info(push, repo_type=kind).private:
            raise UserError(f"push={push} is there and is public: name another one, or say public=true")
        done = api.upload_folder(
            repo_id=push, repo_type=kind, folder_path=folder, commit_message="echodream", delete_patterns="*"
        )
    except UserError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"push={push} was not taken by the hub ({reason}): {folder} is complete, give the same command again"
        ) from error
    return str(getattr(done, "repo_url", None) or f"https://huggingface.co/{'datasets/' * (kind == 'dataset')}{push}")
