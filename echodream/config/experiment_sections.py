"""Experiments keep the settings of all models, or of all stages, in one file: hydra reads its sections as files."""

from pathlib import Path
from typing import Any

from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf

from echodream.config.paths import CONF_DIR

_GROUPS = ("experiment/train", "experiment/sample")


class ExperimentSections(ConfigSource):
    """Finds ``experiment/train/demo_vae`` as the section ``vae`` of ``conf/experiment/train/demo.yaml``."""

    @staticmethod
    def scheme() -> str:
        """The word before :// in the search path."""
        return "sections"

    def load_config(self, config_path: str) -> ConfigResult:
        """The section as a configuration of its own."""
        section = self._section(config_path)
        if section is None:
            raise ConfigLoadError(f"Config not found : {config_path}")
        return ConfigResult(self.provider, self.full_path(), section, {"package": "_global_"})

    def is_group(self, config_path: str) -> bool:
        """Whether the files of this group have sections."""
        return config_path in _GROUPS

    def is_config(self, config_path: str) -> bool:
        """Whether an experiment has the section ``config_path``."""
        return self._section(config_path) is not None

    def available(self) -> bool:
        """Whether the configuration folder exists."""
        return CONF_DIR.is_dir()

    def list(self, config_path: str, results_filter: ObjectType | None) -> Any:
        """Sections of all files of a group."""
        if config_path not in _GROUPS or results_filter == ObjectType.GROUP:
            return []
        files = sorted((CONF_DIR / config_path).glob("*.yaml"))
        return [f"{file.stem}_{section}" for file in files for section in map(str, OmegaConf.load(file))]

    def _section(self, config_path: str) -> DictConfig | None:
        group, _, name = config_path.removesuffix(".yaml").rpartition("/")
        experiment, _, section = name.rpartition("_")
        file = Path(CONF_DIR, group, f"{experiment}.yaml")
        if group not in _GROUPS or not file.is_file():
            return None
        sections = OmegaConf.load(file)
        assert isinstance(sections, DictConfig)
        found: DictConfig | None = sections.get(section)
        return found


class SectionsSearchPath(SearchPathPlugin):
    """Adds sections to the search path. The setting hydra.searchpath cannot, because a command line may replace it."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append the source."""
        search_path.append("echodream", "sections://conf")


def register() -> None:
    """Let hydra find sections. Has to be called before a configuration is composed."""
    SourcesRegistry.instance().register(ExperimentSections)
    Plugins.instance().register(SectionsSearchPath)
