"""Weights & Biases (W&B) logger that by default sends no patient's images, no paths and no machine names."""

import functools
import logging
import netrc
import os
import sys
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
CONTENTS = (CHARTS, SAMPLES, PATIENTS)
"""What an image shows, the least private first: a plot, an unconditional sample of a model, or a patient."""
SERVER_TIMEOUT = 60.0
"""Timeout in seconds for the server at the start of a run."""
UPLOAD_TIMEOUT = 300.0
"""Seconds to wait for the upload at the end of a run; the rest stays on disk, for "wandb sync"."""
_HOST = "https://api.wandb.ai"


class _UploadErrors(logging.Handler):
    """Collects W&B's warnings about data that it gave up uploading; W&B raises no error for them."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if "not be synced" in (message := record.getMessage()):
            self.messages.append(_one_line(message.rpartition("WARNING ")[2].partition(". ")[0]))


_UPLOAD_ERRORS = _UploadErrors()
_TERMINAL = logging.getLogger(f"{__name__}.terminal")
"""Receives W&B's terminal messages."""
_TERMINAL.propagate = False
_TERMINAL.addHandler(_UPLOAD_ERRORS)


def _log_errors(send: Callable[..., None]) -> Callable[..., None]:
    """Decorator of a method of ``PrivateWandbLogger``: log its first error, and go on."""

    @functools.wraps(send)
    def wrapped(self: "PrivateWandbLogger", *args: Any, **kwargs: Any) -> None:
        try:
            send(self, *args, **kwargs)
        except Exception as error:  # noqa: BLE001 (the training goes on after any error)
            if self.error is None:
                log.warning("wandb: some data are not logged (%s); the run goes on", _one_line(error))
            self.error = self.error or _one_line(error)

    return wrapped


class PrivateWandbLogger(WandbLogger):
    """Lightning's W&B logger without data of patients, users or machines by default; its errors never stop a training.

    ``offline``: with None, offline if W&B has no API key. ``id`` of the run: with None, ``set_run`` sets the id.
    ``pictures``: the most private content of logged images, one of ``CONTENTS``. ``upload``: also log the weights of
    models. Console, command line, machine and code are not recorded, because they may contain names. Raises
    ``UserError`` for invalid settings.
    """

    error: str | None = None
    """The first error of W&B, if any."""
    folder: Path | None = None
    """Folder of the run on disk, once it has begun."""

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
        validation.one_of("logger.wandb.pictures", pictures, CONTENTS)
        if not project or set(project) & set("/\\#?%:"):
            validation.refuse("logger.wandb.project", project, "give a name without / \\ # ? % :")
        validation.true_or_false("logger.wandb.upload", upload)
        validation.true_or_false("logger.wandb.offline", offline is not None and offline)
        self.pictures, self.upload, self.mode = pictures, upload, _wandb_mode(offline)
        super().__init__(name, save_dir, id=id, project=project, entity=entity, mode=self.mode, settings=_wandb_setup())

    def set_run(self, id: str, config: dict[str, Any]) -> None:
        """Set the configuration, and the id unless the settings have one. A run whose id exists is resumed."""
        self._id = self._wandb_init["id"] = self._wandb_init["id"] or id
        self._wandb_init["config"] = config

    def accepts(self, content: str) -> bool:
        """Whether images of ``content``, one of ``CONTENTS``, are logged."""
        return CONTENTS.index(content) <= CONTENTS.index(self.pictures)

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """W&B's run; offline if the server does not respond. Never prompts."""
        if self._experiment is None:
            import wandb

            _start_service()
            Path(str(self.save_dir)).mkdir(parents=True, exist_ok=True)
            while self._experiment is None:
                try:
                    super().experiment  # noqa: B018 (begins the run)
                except Exception as error:  # Lightning needs the run, and the training goes on after any error
                    if self.mode == "disabled":
                        raise
                    wandb.teardown()  # otherwise the id counts as in use
                    _start_service()
                    self.error, fallback = _one_line(error), "kept offline" if self.mode == "online" else "not logged"
                    log.warning("wandb: the run cannot begin (%s), so this run is %s", self.error, fallback)
                    self.mode = self._wandb_init["mode"] = "offline" if self.mode == "online" else "disabled"
            self._log_location(self._experiment)
        return self._experiment

    @_log_errors
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        super().log_metrics(metrics, step)

    @_log_errors
    def log_hyperparams(self, params: Any) -> None:
        super().log_hyperparams(params)

    @_log_errors
    def log_input(self, name: str, kind: str, metadata: dict[str, Any]) -> None:
        """Record that the run has read the store or model ``name``, of ``kind`` "dataset" or "model"."""
        run, artifact = self.experiment, _reference_artifact(name, kind, metadata)
        if self.mode == "online":
            run.use_artifact(artifact)
        elif self.mode == "offline":  # use_artifact refuses; "wandb sync" sends the same as after this call
            run._log_artifact(artifact, is_user_created=True, use_after_commit=True)

    @_log_errors
    def log_output(self, name: str, kind: str, metadata: dict[str, Any], folder: Path | None = None) -> None:
        """Record that the run has made the store or model ``name``; with ``upload`` the files of ``folder``, too."""
        artifact = _reference_artifact(name, kind, metadata)
        if self.upload and folder is not None:
            artifact.add_dir(str(folder))
        self.experiment.log_artifact(artifact)

    def _log_location(self, run: Any) -> None:
        self.folder = Path(run.settings.sync_dir) if self.mode in ("online", "offline") else None
        if self.mode == "online":
            log.info("wandb: %s", run.url)
        elif self.mode == "offline":
            log.info("wandb: kept offline in %s; to send it: wandb login, then wandb sync %s", *[self.folder] * 2)


@rank_zero_only
def finish_run(failed: bool = False) -> str | None:
    """End the open W&B run, if any. Returns and logs why some data were not sent; None if no data are missing."""
    wandb = sys.modules.get("wandb")
    if wandb is None or wandb.run is None:
        return None
    folder = wandb.run.settings.sync_dir
    try:
        wandb.finish(exit_code=int(failed))
    except Exception as error:  # noqa: BLE001 (the training is done, whatever the error)
        _UPLOAD_ERRORS.messages.append(_one_line(error))
    messages = _UPLOAD_ERRORS.messages[:1]
    _UPLOAD_ERRORS.messages.clear()
    if not messages:
        return None
    text = "wandb: some data are not sent (%s); they are in %s; to send them: wandb sync %s"
    log.warning(text, messages[0], folder, folder)
    return messages[0]


def _one_line(error: object) -> str:
    """The first 120 characters of an error, on one line."""
    return " ".join(str(error).split())[:120] or type(error).__name__


def _wandb_mode(offline: bool | None) -> str:
    """W&B's mode: "online", "offline" or "disabled". Raises ``UserError`` for online without a key."""
    mode = os.environ.get("WANDB_MODE", "").replace("dryrun", "offline")
    if offline is False and not _has_key():
        raise UserError("logger.wandb.offline=false needs a key: set WANDB_API_KEY, run 'wandb login', or leave it out")
    if offline is None and mode in ("offline", "disabled"):
        return mode
    return "offline" if offline or not _has_key() else "online"


def _has_key() -> bool:
    """Whether W&B would find a key; its value is not used."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    paths = [Path(os.environ["NETRC"])] if "NETRC" in os.environ else [Path.home() / ".netrc", Path.home() / "_netrc"]
    host = urlparse(os.environ.get("WANDB_BASE_URL", _HOST)).hostname
    for path in paths:
        try:
            if path.is_file() and netrc.netrc(path).authenticators(str(host)):
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False


def _start_service() -> None:
    """Start W&B's service without output on the terminal."""
    import wandb

    silent = wandb.Settings(silent=True)
    wandb.setup(silent)
    wandb.termsetup(silent, _TERMINAL)
    logging.getLogger("wandb").propagate = False  # W&B writes these messages to its own file


def _wandb_setup() -> Any:
    """W&B's settings; recording of names of patients, users and machines is disabled."""
    import wandb

    settings: dict[str, Any] = {"console": "off", "host": "-", "program": "-", "save_code": False, "silent": True}
    disabled = ("disable_code", "disable_git", "x_disable_machine_info", "x_disable_meta", "x_disable_stats")
    settings |= {**dict.fromkeys(disabled, True), "init_timeout": SERVER_TIMEOUT}
    if "finish_timeout" in wandb.Settings.model_fields:  # newer versions only
        settings |= {"finish_timeout": UPLOAD_TIMEOUT, "finish_timeout_raises": True}
    return wandb.Settings(**settings)


def _reference_artifact(name: str, kind: str, metadata: dict[str, Any]) -> Any:
    """A W&B artifact without files; its content is the fingerprint in ``metadata``."""
    import wandb

    artifact = wandb.Artifact(name, type=kind, metadata=metadata)
    artifact.add_reference(f"sha256:{metadata['fingerprint']}", name="fingerprint", checksum=False)
    return artifact
