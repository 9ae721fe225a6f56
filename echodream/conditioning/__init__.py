"""What a denoiser is told: class, EF, view, text and reference frames, each with its own null and its own dropout."""

from echodream.conditioning.base import ConditionModule, ReferenceCondition, TokenCondition
from echodream.conditioning.conditioner import Conditioner
from echodream.conditioning.published import PublishedReference, PublishedToken
from echodream.conditioning.reference import Reference, beating, between
from echodream.conditioning.text import Text
from echodream.conditioning.tokens import Category, ClassId, Scalar

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
