"""Weights & Biases as this project uses it: offline without a key, and without patients unless they are asked for."""

import logging
import netrc
import os
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.loggers.logger import rank_zero_experiment
from pytorch_lightning.utilities import rank_zero_only

from echodream.errors import UserError

log = logging.getLogger(__name__)

CHARTS, SAMPLES, PATIENTS = "charts", "samples", "patients"
"""What a picture shows: figures, what a model drew of nobody, or a patient. Each is more private than those before."""
KINDS = (CHARTS, SAMPLES, PATIENTS)
WAIT = 60.0
"""Seconds in which the server has to answer."""
PATIENCE = 300.0
"""Seconds in which what is left has to be sent at the end; it stays on disk, for "wandb sync"."""
_HOST = "https://api.wandb.ai"


class Wandb(WandbLogger):
    """Lightning's logger, offline where there is no key, that sends neither the patients nor who works where.

    ``offline`` None means offline where there is no key; ``id`` None is filled in by ``known_as``. ``pictures`` is the
    most private kind of pictures that is logged, one of ``KINDS``. With ``upload`` the weights of models go along.
    Neither console, command line, machine nor code is recorded: they may hold names. Raises ``UserError``.
    """

    def __init__(
        self,
        save_dir: str,
        project: str,
        name: str,
        entity: str | None = None,
        id: str | None = None,
        offline: bool | None = None,
        pictures: str = SAMPLES,
        upload: bool = False,
    ) -> None:
        if pictures not in KINDS:
            raise UserError(f"logger.wandb.pictures={pictures} is not known: choose one of {', '.join(KINDS)}")
        for key, value in {"offline": offline, "upload": upload}.items():
            if not isinstance(value, bool) and not (key == "offline" and value is None):
                raise UserError(f"logger.wandb.{key}={value} is not possible: give true or false")
        self.pictures, self.upload, self.mode = pictures, upload, _mode(offline)
        super().__init__(name, save_dir, id=id, project=project, entity=entity, mode=self.mode, settings=_settings())

    def known_as(self, id: str, config: dict[str, Any]) -> None:
        """Say, before anything is logged, which run this is and how it is configured. An ``id`` that was given stays.

        A run of an ``id`` that is there goes on.
        """
        self._id = self._wandb_init["id"] = self._wandb_init["id"] or id
        self._wandb_init["config"] = config

    def shows(self, kind: str) -> bool:
        """Whether pictures of ``kind`` are logged."""
        return KINDS.index(kind) <= KINDS.index(self.pictures)

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """W&B's run. Where the server does not answer it is kept offline: nothing waits for a person."""
        if self._experiment is None:
            import wandb

            wandb.setup(wandb.Settings(silent=True))
            logging.getLogger("wandb").propagate = False  # its own diary goes to its own file
            Path(str(self.save_dir)).mkdir(parents=True, exist_ok=True)
            try:
                super().experiment  # noqa: B018 (begins the run)
            except wandb.errors.Error as error:
                if self.mode != "online":
                    raise
                wandb.teardown()  # else the id counts as in use
                wandb.setup(wandb.Settings(silent=True))
                self.mode = self._wandb_init["mode"] = "offline"
                reason = " ".join(str(error).split())[:120]
                log.warning("wandb: the server cannot be used (%s), so this run is kept offline", reason)
            self._say(super().experiment)
        return self._experiment

    def uses(self, name: str, kind: str, facts: dict[str, Any]) -> None:
        """Record that the run has read the store or model called ``name``, of ``kind`` "dataset" or "model"."""
        run = self.experiment
        if self.mode == "online":
            run.use_artifact(_reference(name, kind, facts))
        elif self.mode == "offline":  # use_artifact refuses, and this writes for "wandb sync" what it would send
            run._log_artifact(_reference(name, kind, facts), is_user_created=True, use_after_commit=True)

    def made(self, name: str, kind: str, facts: dict[str, Any], folder: Path | None = None) -> None:
        """Record that the run has made ``name``; the files of ``folder`` go along with ``upload``."""
        artifact = _reference(name, kind, facts)
        if self.upload and folder is not None:
            artifact.add_dir(str(folder))
        self.experiment.log_artifact(artifact)

    def _say(self, run: Any) -> None:
        """One line: where the run is."""
        if self.mode == "online":
            log.info("wandb: %s", run.url)
        elif self.mode == "offline":
            log.info(
                "wandb: kept offline in %s; to send it: wandb login, then wandb sync %s",
                *(Path(run.settings.sync_dir), Path(run.settings.sync_dir)),
            )


@rank_zero_only
def finish(failed: bool = False) -> None:
    """End the run that is open, if there is one: the next training of this process is a run of its own."""
    import sys

    wandb = sys.modules.get("wandb")
    if wandb is not None and wandb.run is not None:
        wandb.finish(exit_code=int(failed))


def _mode(offline: bool | None) -> str:
    """W&B's mode: "online", "offline" or "disabled". Raises ``UserError`` for online without a key."""
    told = {"dryrun": "offline"}.get(os.environ.get("WANDB_MODE", ""), os.environ.get("WANDB_MODE", ""))
    if offline is False and not _has_key():
        raise UserError(
            "logger.wandb.offline=false needs a key: set WANDB_API_KEY or run 'wandb login', or leave it out"
        )
    if offline is None and told in ("offline", "disabled"):
        return told
    return "offline" if offline or not _has_key() else "online"


def _has_key() -> bool:
    """Whether there is a key where W&B looks for one; it is not read."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    places = [Path(os.environ["NETRC"])] if "NETRC" in os.environ else [Path.home() / ".netrc", Path.home() / "_netrc"]
    host = urlparse(os.environ.get("WANDB_BASE_URL", _HOST)).hostname
    for path in places:
        try:
            if path.is_file() and netrc.netrc(path).authenticators(str(host)):
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False


def _settings() -> Any:
    """Without what may name a patient, a person or a machine."""
    import wandb

    told: dict[str, Any] = {"console": "off", "host": "-", "program": "-", "save_code": False, "silent": True}
    told |= dict.fromkeys(("disable_code", "disable_git"), True)
    told |= dict.fromkeys(("x_disable_machine_info", "x_disable_meta", "x_disable_stats"), True)
    told |= {"init_timeout": WAIT}
    if "finish_timeout" in wandb.Settings.model_fields:  # of newer versions
        told["finish_timeout"] = PATIENCE
    return wandb.Settings(**told)


def _reference(name: str, kind: str, facts: dict[str, Any]) -> Any:
    """An artifact without files: its content is the fingerprint that ``facts`` has."""
    import wandb

    artifact = wandb.Artifact(name, type=kind, metadata=facts)
    artifact.add_reference(f"sha256:{facts['fingerprint']}", name="fingerprint", checksum=False)
    return artifact
