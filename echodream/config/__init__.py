"""Configuration: folders, composition, help and error messages. Its import registers experiment sections with hydra."""

from echodream.config import experiment_sections

experiment_sections.register_experiment_sections()
