"""Weights & Biases (W&B) logger that by default sends no images of patients, paths or machine names."""

import functools
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.loggers.logger import rank_zero_experiment
from pytorch_lightning.utilities import rank_zero_only

from echodream import validation
from echodream.errors import UserError

log = logging.getLogger(__name__)

CHARTS, SAMPLES, PATIENTS = "charts", "samples", "patients"
IMAGE_CONTENTS = (CHARTS, SAMPLES, PATIENTS)
"""Contents of logged images, from least to most private: plots, unconditional samples of a model, patients."""
SERVER_TIMEOUT = 60.0
"""Timeout in seconds for the server at the start of a run."""
UPLOAD_TIMEOUT = 300.0
"""Timeout in seconds for the upload at the end of a run. "wandb sync" uploads the remaining data later."""
_SERVER_URL = "https://api.wandb.ai"


class _UploadErrors(logging.Handler):
    """Collects W&B's warnings about failed uploads, for which W&B raises no error."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if "not be synced" in (message := record.getMessage()):
            self.messages.append(_error_line(message.rpartition("WARNING ")[2].partition(". ")[0]))


_UPLOAD_ERRORS = _UploadErrors()
_TERMINAL_LOGGER = logging.getLogger(f"{__name__}.terminal")
"""Logger that receives W&B's terminal messages."""
_TERMINAL_LOGGER.propagate = False
_TERMINAL_LOGGER.addHandler(_UPLOAD_ERRORS)


def _log_errors(send: Callable[..., None]) -> Callable[..., None]:
    """Decorator of ``PrivateWandbLogger`` methods: log the first error instead of raising it."""

    @functools.wraps(send)
    def send_without_raising(self: "PrivateWandbLogger", *args: Any, **kwargs: Any) -> None:
        try:
            send(self, *args, **kwargs)
        except Exception as error:  # noqa: BLE001 (no error of W&B may stop the training)
            if self.first_error is None:
                self.first_error = _error_line(error)
                log.warning("wandb: some data are not logged (%s); the run goes on", self.first_error)

    return send_without_raising


class PrivateWandbLogger(WandbLogger):
    """Lightning's W&B logger, by default without data of patients, users or machines; its errors never stop a training.

    With ``offline`` None, the run is offline if W&B has no API key. With ``id`` None, ``set_run`` sets the id of the
    run. ``pictures``, one of ``IMAGE_CONTENTS``, is the most private content that logged images may have. With
    ``upload``, the weights of models are uploaded. Console, command line, machine and code are not recorded, because
    they may contain names. Raises ``UserError`` for invalid settings.
    """

    first_error: str | None = None
    """First error of W&B; None without errors."""
    folder: Path | None = None
    """Folder of the run on disk; None before the run starts."""

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
        validation.one_of("logger.wandb.pictures", pictures, IMAGE_CONTENTS)
        if not project or set(project) & set("/\\#?%:"):
            validation.refuse("logger.wandb.project", project, "give a name without / \\ # ? % :")
        validation.true_or_false("logger.wandb.upload", upload)
        validation.true_or_false("logger.wandb.offline", offline is not None and offline)
        self.pictures, self.upload, self.mode = pictures, upload, _wandb_mode(offline)
        super().__init__(
            name, save_dir, id=id, project=project, entity=entity, mode=self.mode, settings=_run_settings()
        )

    def set_run(self, id: str, config: dict[str, Any]) -> None:
        """Set the configuration, and the ``id`` unless the logger has one. An existing run with ``id`` is resumed."""
        self._id = self._wandb_init["id"] = self._wandb_init["id"] or id
        self._wandb_init["config"] = config

    def accepts(self, content: str) -> bool:
        """Whether images of ``content``, one of ``IMAGE_CONTENTS``, are sent to W&B."""
        return IMAGE_CONTENTS.index(content) <= IMAGE_CONTENTS.index(self.pictures)

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """W&B's run, started at the first access without prompts; offline if the server does not respond."""
        if self._experiment is None:
            import wandb

            _start_wandb_service()
            Path(str(self.save_dir)).mkdir(parents=True, exist_ok=True)
            while self._experiment is None:
                try:
                    super().experiment  # noqa: B018 (starts the run)
                except Exception as error:  # no error of W&B may stop the training
                    if self.mode == "disabled":
                        raise
                    wandb.teardown()  # releases the id of the run
                    _start_wandb_service()
                    self.first_error, is_online = _error_line(error), self.mode == "online"
                    fallback = "kept offline" if is_online else "not logged"
                    log.warning("wandb: the run cannot begin (%s), so this run is %s", self.first_error, fallback)
                    self.mode = self._wandb_init["mode"] = "offline" if is_online else "disabled"
            self._log_run_location(self._experiment)
        return self._experiment

    @_log_errors
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        super().log_metrics(metrics, step)

    @_log_errors
    def log_hyperparams(self, params: Any) -> None:
        super().log_hyperparams(params)

    @_log_errors
    def log_input(self, name: str, kind: str, metadata: dict[str, Any]) -> None:
        """Record the store or model ``name`` as input of the run; ``kind`` is "dataset" or "model"."""
        run, artifact = self.experiment, _reference_artifact(name, kind, metadata)
        if self.mode == "online":
            run.use_artifact(artifact)
        elif self.mode == "offline":  # use_artifact needs a connection; "wandb sync" sends this record as an input
            run._log_artifact(artifact, is_user_created=True, use_after_commit=True)

    @_log_errors
    def log_output(self, name: str, kind: str, metadata: dict[str, Any], folder: Path | None = None) -> None:
        """Record the store or model ``name`` as output of the run; with ``upload``, also the files in ``folder``."""
        run, artifact = self.experiment, _reference_artifact(name, kind, metadata)
        if not self.upload or folder is None:
            run.log_artifact(artifact)
        elif self.mode == "online":  # a link, because W&B sends paths, which may contain names of users
            with tempfile.TemporaryDirectory() as parent:
                link = Path(parent) / "files"
                link.symlink_to(folder.absolute())
                artifact.add_dir(str(link), policy="immutable")
                run.log_artifact(artifact).wait(timeout=int(UPLOAD_TIMEOUT))
        else:
            artifact.add_dir(str(folder))
            run.log_artifact(artifact)

    def _log_run_location(self, run: Any) -> None:
        self.folder = Path(run.settings.sync_dir) if self.mode in ("online", "offline") else None
        if self.mode == "online":
            log.info("wandb: %s", run.url)
        elif self.mode == "offline":
            log.info("wandb: kept offline in %s; to send it: wandb login, then wandb sync %s", *[self.folder] * 2)


@rank_zero_only
def finish_run(failed: bool = False) -> str | None:
    """End the W&B run if one is open. Returns and logs the first upload error; None without errors."""
    wandb = sys.modules.get("wandb")
    if wandb is None or wandb.run is None:
        return None
    folder = wandb.run.settings.sync_dir
    try:
        wandb.finish(exit_code=int(failed))
    except Exception as error:  # noqa: BLE001 (no error of W&B may stop the training)
        _UPLOAD_ERRORS.messages.append(_error_line(error))
    first_error = next(iter(_UPLOAD_ERRORS.messages), None)
    _UPLOAD_ERRORS.messages.clear()
    if first_error is not None:
        text = "wandb: some data are not sent (%s); they are in %s; to send them: wandb sync %s"
        log.warning(text, first_error, folder, folder)
    return first_error


def _error_line(error: object) -> str:
    """First 120 characters of an error, on one line."""
    return " ".join(str(error).split())[:120] or type(error).__name__


def _wandb_mode(offline: bool | None) -> str:
    """W&B's mode: "online", "offline" or "disabled". Raises ``UserError`` for ``offline=False`` without an API key."""
    mode = os.environ.get("WANDB_MODE", "").replace("dryrun", "offline")
    if offline is False and not _has_api_key():
        raise UserError("logger.wandb.offline=false needs a key: set WANDB_API_KEY or run 'wandb login', or give null")
    if offline is None and mode in ("offline", "disabled"):
        return mode
    return "offline" if offline or not _has_api_key() else "online"


def _has_api_key() -> bool:
    """Whether W&B has an API key, in the environment or in the netrc file of the user."""
    from requests.utils import get_netrc_auth

    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    return get_netrc_auth(os.environ.get("WANDB_BASE_URL", _SERVER_URL)) is not None


def _start_wandb_service() -> None:
    """Start W&B's service without output on the terminal, and without telemetry unless WANDB_ERROR_REPORTING is set."""
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # the telemetry contains stack traces, with local paths
    import wandb

    silent = wandb.Settings(silent=True)
    wandb.setup(silent)
    wandb.termsetup(silent, _TERMINAL_LOGGER)
    logging.getLogger("wandb").propagate = False  # W&B writes its messages to its own log file


def _run_settings() -> Any:
    """W&B's settings, which disable the recording of names of patients, users and machines."""
    import wandb

    settings: dict[str, Any] = {"console": "off", "host": "-", "program": "-", "save_code": False, "silent": True}
    disabled = ("disable_code", "disable_git", "x_disable_machine_info", "x_disable_meta", "x_disable_stats")
    settings |= {**dict.fromkeys(disabled, True), "init_timeout": SERVER_TIMEOUT}
    if "finish_timeout" in wandb.Settings.model_fields:  # only in newer versions of W&B
        settings |= {"finish_timeout": UPLOAD_TIMEOUT, "finish_timeout_raises": True}
    return wandb.Settings(**settings)


def _reference_artifact(name: str, kind: str, metadata: dict[str, Any]) -> Any:
    """W&B artifact without files; it refers to the fingerprint in ``metadata``."""
    import wandb

    artifact = wandb.Artifact(name, type=kind, metadata=metadata)
    artifact.add_reference(f"sha256:{metadata['fingerprint']}", name="fingerprint", checksum=False)
    return artifact
