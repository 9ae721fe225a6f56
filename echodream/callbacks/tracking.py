"""Weights & Biases as this project uses it: offline without a key, and without patients unless they are asked for."""

import logging
import netrc
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.loggers.logger import rank_zero_experiment
from pytorch_lightning.utilities import rank_zero_only

from echodream import validation
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


class _Complaints(logging.Handler):
    """Keeps what W&B says of data that it gave up sending: nothing else tells."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.heard: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if "not be synced" in (said := record.getMessage()):
            self.heard.append(_short(said.rpartition("WARNING ")[2].partition(". ")[0]))


_COMPLAINTS = _Complaints()
_DIARY = logging.getLogger(f"{__name__}.diary")
"""Where W&B says what it would say on the terminal."""
_DIARY.propagate = False
_DIARY.addHandler(_COMPLAINTS)


class Wandb(WandbLogger):
    """Lightning's logger, offline where there is no key, that sends neither the patients nor who works where.

    ``offline`` None means offline where there is no key; ``id`` None is filled in by ``known_as``. ``pictures`` is the
    most private kind of pictures that is logged, one of ``KINDS``. With ``upload`` the weights of models go along.
    Neither console, command line, machine nor code is recorded: they may hold names. Raises ``UserError`` for settings
    that cannot be. What W&B does not take is said once, and is no reason to stop: ``lost`` says what it was.
    """

    lost: str | None = None
    """Why not all was sent or written, where something went wrong on the way."""
    folder: Path | None = None
    """Where the run is kept, once it has begun."""

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
        validation.one_of("logger.wandb.pictures", pictures, KINDS)
        if not project or set(project) & set("/\\#?%:"):
            raise UserError(f"logger.wandb.project={project} is not possible: give a name without / \\ # ? % :")
        for key, value in {"offline": offline, "upload": upload}.items():
            if not (key == "offline" and value is None):
                validation.true_or_false(f"logger.wandb.{key}", value)
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

            _set_up()
            Path(str(self.save_dir)).mkdir(parents=True, exist_ok=True)
            while self._experiment is None:
                try:
                    super().experiment  # noqa: B018 (begins the run)
                except Exception as error:  # whatever it is: Lightning asks for the run, and the training goes on
                    if self.mode == "disabled":
                        raise
                    wandb.teardown()  # else the id counts as in use
                    _set_up()
                    self.lost, kept = _short(error), "kept offline" if self.mode == "online" else "not logged"
                    log.warning("wandb: the run cannot begin (%s), so this run is %s", self.lost, kept)
                    self.mode = self._wandb_init["mode"] = "offline" if self.mode == "online" else "disabled"
            self._say(self._experiment)
        return self._experiment

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self._tried(lambda: super(Wandb, self).log_metrics(metrics, step))

    def log_hyperparams(self, params: Any) -> None:
        self._tried(lambda: super(Wandb, self).log_hyperparams(params))

    def uses(self, name: str, kind: str, facts: dict[str, Any]) -> None:
        """Record that the run has read the store or model called ``name``, of ``kind`` "dataset" or "model"."""

        def use() -> None:
            run = self.experiment
            if self.mode == "online":
                run.use_artifact(_reference(name, kind, facts))
            elif self.mode == "offline":  # use_artifact refuses, and this writes for "wandb sync" what it would send
                run._log_artifact(_reference(name, kind, facts), is_user_created=True, use_after_commit=True)

        self._tried(use)

    def made(self, name: str, kind: str, facts: dict[str, Any], folder: Path | None = None) -> None:
        """Record that the run has made ``name``; the files of ``folder`` go along with ``upload``."""

        def make() -> None:
            artifact = _reference(name, kind, facts)
            if self.upload and folder is not None:
                artifact.add_dir(str(folder))
            self.experiment.log_artifact(artifact)

        self._tried(make)

    def _tried(self, send: Callable[[], Any]) -> None:
        """Do what needs W&B; what fails is said once."""
        try:
            send()
        except Exception as error:  # noqa: BLE001 (whatever it is, the training goes on)
            if self.lost is None:
                log.warning("wandb: not all is logged (%s); all else goes on", _short(error))
            self.lost = self.lost or _short(error)

    def _say(self, run: Any) -> None:
        """One line: where the run is."""
        self.folder = Path(run.settings.sync_dir) if self.mode in ("online", "offline") else None
        if self.mode == "online":
            log.info("wandb: %s", run.url)
        elif self.mode == "offline":
            log.info(
                "wandb: kept offline in %s; to send it: wandb login, then wandb sync %s",
                *(self.folder, self.folder),
            )


@rank_zero_only
def finish(failed: bool = False) -> str | None:
    """End the run that is open, if there is one: the next training of this process is a run of its own.

    Returns why not all of it was sent, None where it was, or where nothing was to be sent; that is said, too.
    """
    import sys

    wandb = sys.modules.get("wandb")
    if wandb is None or wandb.run is None:
        return None
    folder = wandb.run.settings.sync_dir
    try:
        wandb.finish(exit_code=int(failed))
    except Exception as error:  # noqa: BLE001 (whatever it is, the work is done)
        _COMPLAINTS.heard.append(_short(error))
    heard = _COMPLAINTS.heard[:1]
    _COMPLAINTS.heard.clear()
    if not heard:
        return None
    log.warning("wandb: not all was sent (%s); it is kept in %s; to send it: wandb sync %s", heard[0], folder, folder)
    return heard[0]


def _short(told: object) -> str:
    """An error in a line."""
    return " ".join(str(told).split())[:120] or type(told).__name__


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


def _set_up() -> None:
    """W&B's service, which says nothing on the terminal."""
    import wandb

    silent = wandb.Settings(silent=True)
    wandb.setup(silent)
    wandb.termsetup(silent, _DIARY)
    logging.getLogger("wandb").propagate = False  # its other messages go to a file of its own


def _settings() -> Any:
    """Without what may name a patient, a person or a machine."""
    import wandb

    told: dict[str, Any] = {"console": "off", "host": "-", "program": "-", "save_code": False, "silent": True}
    told |= dict.fromkeys(("disable_code", "disable_git"), True)
    told |= dict.fromkeys(("x_disable_machine_info", "x_disable_meta", "x_disable_stats"), True)
    told |= {"init_timeout": WAIT}
    if "finish_timeout" in wandb.Settings.model_fields:  # of newer versions
        told |= {"finish_timeout": PATIENCE, "finish_timeout_raises": True}
    return wandb.Settings(**told)


def _reference(name: str, kind: str, facts: dict[str, Any]) -> Any:
    """An artifact without files: its content is the fingerprint that ``facts`` has."""
    import wandb

    artifact = wandb.Artifact(name, type=kind, metadata=facts)
    artifact.add_reference(f"sha256:{facts['fingerprint']}", name="fingerprint", checksum=False)
    return artifact
