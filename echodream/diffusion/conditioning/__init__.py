"""What a denoiser is told: class, EF, view, text and reference frames, each with its own null and its own dropout."""

from echodream.diffusion.conditioning.base import ConditionModule, ReferenceCondition, TokenCondition
from echodream.diffusion.conditioning.conditioner import Conditioner
from echodream.diffusion.conditioning.published import PublishedReference, PublishedToken
from echodream.diffusion.conditioning.reference import Reference, beating, between
from echodream.diffusion.conditioning.text import Text
from echodream.diffusion.conditioning.tokens import Category, ClassId, Scalar

__all__ = [
    "Category",
    "ClassId",
    "ConditionModule",
    "Conditioner",
    "PublishedReference",
    "PublishedToken",
    "Reference",
    "ReferenceCondition",
    "Scalar",
    "Text",
    "TokenCondition",
    "beating",
    "between",
]
