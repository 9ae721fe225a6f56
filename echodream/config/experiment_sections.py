"""Hydra plugin that reads each section of an experiment file, one per model or stage, as if it were a file."""

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

_SECTION_GROUPS = ("experiment/train", "experiment/sample")


class ExperimentSections(ConfigSource):
    """Config source that reads ``experiment/train/demo_vae`` from the section ``vae`` of the file demo.yaml."""

    @staticmethod
    def scheme() -> str:
        return "sections"

    def load_config(self, config_path: str) -> ConfigResult:
        section = self._load_section(config_path)
        if section is None:
            raise ConfigLoadError(f"Config not found : {config_path}")
        return ConfigResult(self.provider, self.full_path(), section, {"package": "_global_"})

    def is_group(self, config_path: str) -> bool:
        """Whether ``config_path`` is a config group whose files have sections."""
        return config_path in _SECTION_GROUPS

    def is_config(self, config_path: str) -> bool:
        """Whether ``config_path`` is a section of an experiment file."""
        return self._load_section(config_path) is not None

    def available(self) -> bool:
        return CONF_DIR.is_dir()

    def list(self, config_path: str, results_filter: ObjectType | None) -> Any:
        """Names of the sections of all files in the group ``config_path``."""
        if config_path not in _SECTION_GROUPS or results_filter == ObjectType.GROUP:
            return []
        files = sorted((CONF_DIR / config_path).glob("*.yaml"))
        return [f"{file.stem}_{section}" for file in files for section in map(str, OmegaConf.load(file))]

    def _load_section(self, config_path: str) -> DictConfig | None:
        group, _, name = config_path.removesuffix(".yaml").rpartition("/")
        experiment, _, section = name.rpartition("_")
        file = Path(CONF_DIR, group, f"{experiment}.yaml")
        if group not in _SECTION_GROUPS or not file.is_file():
            return None
        sections: Any = OmegaConf.load(file)
        return sections.get(section)


class SectionsSearchPath(SearchPathPlugin):
    """Adds ``ExperimentSections`` to hydra's search path. Users can still set the key hydra.searchpath."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        search_path.append("echodream", "sections://conf")


def register_experiment_sections() -> None:
    """Register the plugins of this file in hydra, before a configuration is composed."""
    SourcesRegistry.instance().register(ExperimentSections)
    Plugins.instance().register(SectionsSearchPath)
