"""All conditions of a model together: columns in, tokens and channels out."""

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from echodream import validation
from echodream.diffusion.conditioning.base import ConditionModule, ReferenceCondition, TokenCondition
from echodream.diffusion.conditioning.published import PublishedReference, PublishedToken
from echodream.diffusion.conditioning.reference import Reference
from echodream.diffusion.conditioning.text import Text
from echodream.diffusion.conditioning.tokens import Category, ClassId, Scalar
from echodream.errors import UserError
from echodream.types import Batch, Condition

if TYPE_CHECKING:
    import pandas as pd

REFERENCE = "reference"
"""The name of reference frames, among the conditions and in a batch; ``reference_time`` goes with them."""
_IRRATIONAL = (0.6180339887, 0.4142135624, 0.7320508076)
"""Steps that fill [0, 1) evenly, however many are taken."""
KINDS: dict[str, type[ConditionModule]] = {
    kind.kind: kind for kind in (ClassId, Scalar, Category, Text, Reference, PublishedToken, PublishedReference)
}


class Conditioner(nn.Module):
    """Conditions by name. Each has its own null, and its own dropout, so that every set of them has been trained.

    Several are also left out together, in a share ``joint_dropout`` of all rows, since guidance begins from nothing.
    Tokens of all conditions are concatenated along L; their width D is ``width``, or 1 with a published token. It has
    parameters after ``adapt``, or when it was made by ``from_settings``.
    """

    def __init__(self, conditions: Mapping[str, nn.Module | None], width: int, joint_dropout: float = 0.0) -> None:
        super().__init__()
        self.joint_dropout = validation.number("model.joint_dropout", joint_dropout, 0, below=1)
        given = {name: module for name, module in conditions.items() if module is not None}
        for name, module in given.items():
            if not isinstance(module, ConditionModule):
                raise UserError(f"conditioning.{name} is a {type(module).__name__}: give a file of conf/conditioning")
            if (name == REFERENCE) != isinstance(module, ReferenceCondition):
                raise UserError(f"conditioning.{name}: reference frames, and nothing else, are called {REFERENCE}")
        ordered = sorted(given.items(), key=lambda item: item[0] != REFERENCE)
        self.conditions = nn.ModuleDict(dict(ordered))
        fixed = [name for name, module in self._tokens.items() if module.fixed_width is not None]
        if fixed and len(self._tokens) > 1:
            raise UserError(
                f"conditioning.{fixed[0]} is the published one, which stands alone beside a reference: leave out "
                f"{', '.join(name for name in self._tokens if name != fixed[0])}"
            )
        validation.whole_number("the width of the condition's tokens", width)
        self.width = next((module.fixed_width or width for module in self._tokens.values()), width)
        self.channels: int | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The conditions in the order in which guidance adds them: the reference first, then as given."""
        return tuple(self.conditions)

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of FileList.csv that are needed."""
        return tuple(dict.fromkeys(module.column for module in self._tokens.values()))

    @property
    def extra(self) -> int:
        """Channels of ``Condition.channels``, E; 0 without a reference."""
        return self._reference.extra if self._reference is not None else 0

    @property
    def _tokens(self) -> dict[str, TokenCondition]:
        return {name: module for name, module in self.conditions.items() if isinstance(module, TokenCondition)}

    @property
    def _reference(self) -> ReferenceCondition | None:
        return cast(ReferenceCondition, self.conditions[REFERENCE]) if REFERENCE in self.conditions else None

    def adapt(self, table: "pd.DataFrame", channels: int) -> None:
        """Learn classes, categories and ranges from the training rows ``table``, and make the parameters.

        ``channels`` are those of a frame. Raises ``UserError`` for a column that is missing, empty, or not of its kind.
        """
        for name, module in self._tokens.items():
            if module.column not in table:
                raise UserError(
                    f"conditioning={name} needs the column {module.column!r}, which the store has not; it has "
                    f"{', '.join(map(str, table.columns))}"
                )
            module.learn(table)
        self.build(channels)

    def build(self, channels: int) -> None:
        """Make the parameters from the facts that there are."""
        self.channels = channels
        for module in self._tokens.values():
            module.build(self.width)
        if self._reference is not None:
            self._reference.build(channels)

    @property
    def interpolates(self) -> bool:
        """Whether there are reference frames that are placed in time."""
        return isinstance(self._reference, Reference)

    def values(self, batch: Batch) -> dict[str, Tensor]:
        """What the conditions take of a batch, each with leading B: by name, and ``reference_time``.

        Missing cells, and classes that training has not seen, are marked and become null rows in ``forward``.
        """
        device = batch["x"].device
        found = {name: module.encode(batch["columns"][module.column], device) for name, module in self._tokens.items()}
        if self._reference is not None:
            if "reference" not in batch or "reference_time" not in batch:
                raise UserError(
                    "conditioning=reference needs reference frames: choose view=clips with view.reference=random, "
                    "first, even or keyframes"
                )
            found |= {REFERENCE: batch["reference"], "reference_time": batch["reference_time"]}
        return found

    def request(self, values: Mapping[str, Sequence[Any]], own: bool = False) -> dict[str, Tensor]:
        """As ``values``, of columns that a user asks for, each checked against what the model was trained on.

        A column that is left out is missing in all rows. If the values are a patient's ``own``, numbers beyond what
        training has seen are no mistake, and count as the nearest that it has. Raises ``UserError`` naming key, value,
        and what is known.
        """
        for column in values:
            if column not in self.columns:
                raise UserError(
                    f"{column} is no condition of this model: it can be told {', '.join(self.columns) or 'nothing'}"
                )
        counts = {column: len(cells) for column, cells in values.items()}
        if len(set(counts.values())) > 1:
            raise UserError(f"the conditions are not for the same number of samples: {counts}")
        found = {}
        for name, module in self._tokens.items():
            if counts:
                cells = values.get(module.column, [None] * next(iter(counts.values())))
                if not (own and isinstance(module, Scalar)):
                    module.check(cells)
                found[name] = module.encode(cells)
        return found

    def spread(self, count: int) -> dict[str, list[Any]]:
        """``count`` requests for all columns, spread evenly over what training has seen; the first n are those of n.

        Classes and categories go through all their combinations, and numbers from one round to the next.
        """
        found: dict[str, list[Any]] = {}
        stride, numbers = 1, []
        for module in self._tokens.values():
            if options := module.options():
                found[module.column] = [options[row // stride % len(options)] for row in range(count)]
                stride *= len(options)
            else:
                numbers.append(module)
        for module, step in zip(numbers, itertools.cycle(_IRRATIONAL), strict=False):
            found[module.column] = [module.at((0.5 + row // stride * step) % 1) for row in range(count)]
        return found

    def describe(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """The columns of FileList.csv for one row that was ``asked`` for, by column: class_name goes with class_id."""
        modules = {module.column: module for module in self._tokens.values()}
        return {name: cell for column, given in asked.items() for name, cell in modules[column].describe(given).items()}

    def drop(self, count: int, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Which of ``count`` rows keep each condition in training: bool, (B,), by itself, or all of them together."""
        device = generator.device if generator is not None else None

        def kept(dropout: float) -> Tensor:
            return torch.rand(count, generator=generator, device=device) >= dropout

        any_ = kept(self.joint_dropout) if len(self.conditions) > 1 else True
        return {name: kept(cast(ConditionModule, module).dropout) & any_ for name, module in self.conditions.items()}

    def forward(self, values: Mapping[str, Tensor], keep: Mapping[str, Tensor], rest: torch.Size) -> Condition:
        """The condition of samples (B, C, *``rest``), with null where ``keep``, bool (B,) for each name, is false.

        ``rest`` is (H, W) of images, (F, H, W) of clips. A condition without value is null in all rows. Without any
        condition of tokens, there is one token of zeros.
        """
        tokens = [
            module(values[name], keep[name].to(values[name].device))
            if name in values
            else module(*self._nothing(module, keep[name]))
            for name, module in self._tokens.items()
        ]
        joined = torch.cat(tokens, dim=1) if tokens else torch.zeros(1, 1, self.width)
        if self._reference is None:
            return Condition(joined)
        kept = keep[REFERENCE]
        if REFERENCE in values:
            frames, time = values[REFERENCE], values["reference_time"]
        else:
            frames, time = torch.zeros(len(kept), self.channels or 0, 1, *rest[1:]), torch.zeros(len(kept), 1)
            frames, time, kept = frames.to(kept.device), time.to(kept.device), torch.zeros_like(kept)
        return Condition(joined, self._reference(frames, time.to(frames.device), kept.to(frames.device), rest))

    def _nothing(self, module: TokenCondition, keep: Tensor) -> tuple[Tensor, Tensor]:
        own = next(module.parameters(), keep)
        return module.encode([None] * len(keep), own.device), keep.to(own.device)

    def settings(self) -> dict[str, Any]:
        """All that ``from_settings`` needs besides the weights, as plain JSON: classes and ranges, not one row."""
        return {
            "width": self.width,
            "channels": self.channels,
            "conditions": [  # a list: the order is the order of composition
                {"name": name, "kind": module.kind, "arguments": module.arguments(), "facts": module.facts}
                for name, module in cast(Mapping[str, ConditionModule], self.conditions).items()
            ],
        }

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> "Conditioner":
        """A conditioner with parameters, ready for ``load_state_dict``. Raises ``UserError`` for damaged settings."""
        try:
            conditions: dict[str, nn.Module | None] = {}
            for item in settings["conditions"]:
                module = KINDS[item["kind"]](**item["arguments"])
                module.facts = dict(item["facts"])
                conditions[item["name"]] = module
            made = cls(conditions, settings["width"])
            made.build(settings["channels"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(
                f"the settings of the conditions are damaged ({type(error).__name__}: {error}): train the model again"
            ) from error
        return made
