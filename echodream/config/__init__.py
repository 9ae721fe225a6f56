"""Configuration: folders, composition, help and error messages. The import registers experiment sections in hydra."""

from echodream.config import experiment_sections

experiment_sections.register_experiment_sections()
