"""Configuration: where it is, how it is composed, help, and errors. Importing it lets hydra find experiments."""

from echodream.config import experiment_sections

experiment_sections.register()
