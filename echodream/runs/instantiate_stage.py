"""What a stage is asked with, checked."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from hydra.utils import instantiate
from omegaconf import DictConfig

from echodream.errors import UserError

if TYPE_CHECKING:
    from echodream.runs.summary import Summary


def instantiate_stage(node: DictConfig) -> "Callable[..., Summary]":
    """The stage that ``node`` of the configuration names. Raises ``UserError`` for a setting that it has not."""
    stage: partial[Summary] = instantiate(node)
    known = inspect.signature(stage.func).parameters
    if unknown := sorted(set(stage.keywords) - set(known)):
        raise UserError(f"unknown key 'stage.{unknown[0]}'; stage has {', '.join(known)}")
    return stage
