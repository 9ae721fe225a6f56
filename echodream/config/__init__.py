"""Configuration: folders, composition, help and error messages. Its import registers the experiment sections."""

from echodream.config import experiment_sections

experiment_sections.register_experiment_sections()
