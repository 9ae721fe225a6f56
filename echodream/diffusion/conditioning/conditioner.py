"""All conditions of a diffusion model: encoding of columns and reference frames as tokens and channels."""

import itertools
import pkgutil
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, cast

import pandas as pd
import torch
from torch import Tensor, nn

from echodream import validation
from echodream.diffusion.conditioning.base import CONDITION_CLASSES, ConditionModule, ReferenceCondition, TokenCondition
from echodream.errors import UserError
from echodream.types import Batch, Condition

REFERENCE = "reference"
"""Name of the condition on reference frames, and key of the reference frames in a batch."""
_KRONECKER_STEPS = (0.6180339887, 0.4142135624, 0.7320508076)
"""Steps of Kronecker sequences: multiples modulo 1 cover [0, 1) evenly for any number of samples."""


class Conditioner(nn.Module):
    """Conditions by name, each with its own null embedding and dropout, so that all subsets of conditions are trained.

    With several conditions, ``joint_dropout`` is the probability of dropping all conditions of a row (classifier-free
    guidance). Tokens are concatenated along L; their width D is ``width``, or 1 for ``PublishedToken``.
    """

    def __init__(self, conditions: Mapping[str, nn.Module | None], width: int, joint_dropout: float = 0.0) -> None:
        super().__init__()
        self.joint_dropout = validation.number("model.joint_dropout", joint_dropout, 0, below=1)
        modules = {name: module for name, module in conditions.items() if module is not None}
        for name, module in modules.items():
            if not isinstance(module, ConditionModule):
                raise UserError(f"conditioning.{name} is a {type(module).__name__}: give a file of conf/conditioning")
            if (name == REFERENCE) != isinstance(module, ReferenceCondition):
                raise UserError(f"conditioning.{name}: give the name {REFERENCE} to reference frames only")
        ordered = sorted(modules.items(), key=lambda item: item[0] != REFERENCE)
        self.conditions = nn.ModuleDict(dict(ordered))
        fixed = [name for name, module in self._token_conditions.items() if module.fixed_width is not None]
        if fixed and len(self._token_conditions) > 1:
            others = ", ".join(name for name in self._token_conditions if name != fixed[0])
            problem = f"conditioning.{fixed[0]} is a published condition, which can be combined with a reference only"
            raise UserError(f"{problem}: remove {others}")
        validation.whole_number("the width of the condition's tokens", width)
        self.width = next((module.fixed_width or width for module in self._token_conditions.values()), width)
        self.channels: int | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the conditions in the order of guidance: the reference first, then the configured order."""
        return tuple(self.conditions)

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of FileList.csv that the conditions encode."""
        return tuple(dict.fromkeys(module.column for module in self._token_conditions.values()))

    @property
    def extra_channels(self) -> int:
        """Number E of channels from the reference condition; 0 without reference frames."""
        return self._reference_module.extra_channels if self._reference_module is not None else 0

    @property
    def interpolates_references(self) -> bool:
        """Whether the reference condition interpolates in time between any number of reference frames."""
        return self._reference_module is not None and self._reference_module.interpolates_in_time

    @property
    def _token_conditions(self) -> dict[str, TokenCondition]:
        return {name: module for name, module in self.conditions.items() if isinstance(module, TokenCondition)}

    @property
    def _reference_module(self) -> ReferenceCondition | None:
        return cast(ReferenceCondition, self.conditions[REFERENCE]) if REFERENCE in self.conditions else None

    def fit(self, table: pd.DataFrame, channels: int) -> None:
        """Derive metadata from the training rows ``table``, and create parameters. Raises ``UserError``."""
        for name, module in self._token_conditions.items():
            if module.column not in table:
                problem = f"conditioning={name} needs the column {module.column!r}, which the store does not have"
                raise UserError(f"{problem}; it has {', '.join(map(str, table.columns))}")
            module.fit(table)
        self.build(channels)

    def build(self, channels: int) -> None:
        """Create the parameters from the metadata of the conditions, for frames of ``channels``."""
        self.channels = channels
        for module in self._token_conditions.values():
            module.build(self.width)
        if self._reference_module is not None:
            self._reference_module.build(channels)

    def copy_from(self, other: "Conditioner") -> None:
        """Copy metadata and parameters of ``other``. Raises ``UserError`` for conditions with other settings."""
        if self.names == other.names:
            for name, module in self._token_conditions.items():
                module.metadata = dict(cast(ConditionModule, other.conditions[name]).metadata)
            self.build(cast(int, other.channels))
        if self.settings() != other.settings():
            raise UserError("the initial model has other conditions: use its conditioning= and width")
        self.load_state_dict(other.state_dict())

    def encode_batch(self, batch: Batch) -> dict[str, Tensor]:
        """Encode the conditions of a batch: tensors (B, ...) by name of the condition, and ``reference_time``."""
        device = batch["x"].device
        columns, modules = batch["columns"], self._token_conditions
        values = {name: module.encode(columns[module.column], device) for name, module in modules.items()}
        if self._reference_module is not None:
            if "reference" not in batch or "reference_time" not in batch:
                remedy = "give view=clips and view.reference=random, first, even or keyframes"
                raise UserError(f"conditioning=reference needs reference frames: {remedy}")
            values |= {REFERENCE: batch["reference"], "reference_time": batch["reference_time"]}
        return values

    def encode_request(self, requests: Mapping[str, Sequence[Any]], clamp: bool = False) -> dict[str, Tensor]:
        """Encode the cells of ``requests``, by column. Raises ``UserError`` for a column or value not in training.

        With ``clamp``, numbers outside of the training range are replaced by the nearest bound.
        """
        for column in requests:
            if column not in self.columns:
                known = ", ".join(self.columns) or "none"
                raise UserError(f"{column} is not a condition of this model; its conditions are {known}")
        counts = {column: len(cells) for column, cells in requests.items()}
        if len(set(counts.values())) > 1:
            raise UserError(f"the conditions have different numbers of values: {counts}")
        values = {}
        for name, module in self._token_conditions.items():
            if counts:
                cells = requests.get(module.column, [None] * next(iter(counts.values())))
                if not (clamp and module.clamps_to_range):
                    module.check_cells(cells)
                values[name] = module.encode(cells)
        return values

    def precompute(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run the computations on encoded ``values`` that are equal at every sampling step, such as a text encoder."""
        modules = self._token_conditions
        return {name: modules[name].precompute(value) if name in modules else value for name, value in values.items()}

    def uniform_requests(self, count: int) -> dict[str, list[Any]]:
        """Requests for ``count`` samples, by column, evenly distributed over all combinations of training values."""
        requests: dict[str, list[Any]] = {}
        stride, continuous = 1, []
        for module in self._token_conditions.values():
            if choices := module.choices():
                requests[module.column] = [choices[row // stride % len(choices)] for row in range(count)]
                stride *= len(choices)
            else:
                continuous.append(module)
        for module, step in zip(continuous, itertools.cycle(_KRONECKER_STEPS), strict=False):
            requests[module.column] = [module.range_value((0.5 + row // stride * step) % 1) for row in range(count)]
        return requests

    def grid_values(self, count: int) -> dict[str, list[Any]]:
        """Grid values by column: all values of a categorical condition, or ``count`` evenly spaced numbers."""
        fractions = [(number + 0.5) / count for number in range(count)]
        modules = self._token_conditions.values()
        return {each.column: each.choices() or [each.range_value(part) for part in fractions] for each in modules}

    def filelist_columns(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Cells of FileList.csv, by column, for one sample with the condition values ``request``."""
        modules = {module.column: module for module in self._token_conditions.values()}
        cells = (modules[column].filelist_columns(cell) for column, cell in request.items())
        return {name: cell for columns in cells for name, cell in columns.items()}

    def sample_dropout(self, count: int, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Random mask of the ``count`` training rows that keep each condition: bool, (B,), by name."""
        device = generator.device if generator is not None else None

        def sample_mask(dropout: float) -> Tensor:
            return torch.rand(count, generator=generator, device=device) >= dropout

        keep_any = sample_mask(self.joint_dropout) if len(self.conditions) > 1 else True
        modules = cast(Mapping[str, ConditionModule], self.conditions)
        return {name: sample_mask(module.dropout) & keep_any for name, module in modules.items()}

    def forward(self, values: Mapping[str, Tensor], keep: Mapping[str, Tensor], size: torch.Size) -> Condition:
        """Tokens and channels for samples of ``size`` (H, W) or (F, H, W).

        A condition has its null embedding if it has no value, and in rows where its mask ``keep``, bool (B,), is false.
        """
        tokens = []
        for name, module in self._token_conditions.items():
            device = next(module.parameters(), keep[name]).device
            value = values[name] if name in values else module.encode([None] * len(keep[name]), device)
            tokens.append(module(value, keep[name].to(value.device)))
        all_tokens = torch.cat(tokens, dim=1) if tokens else torch.zeros(1, 1, self.width)
        if self._reference_module is None:
            return Condition(all_tokens)
        kept = keep[REFERENCE]
        if REFERENCE in values:
            frames, time = values[REFERENCE], values["reference_time"]
        else:
            frames, time = torch.zeros(len(kept), self.channels or 0, 1, *size[1:]), torch.zeros(len(kept), 1)
            frames, time, kept = frames.to(kept.device), time.to(kept.device), torch.zeros_like(kept)
        channels = self._reference_module(frames, time.to(frames.device), kept.to(frames.device), size)
        return Condition(all_tokens, channels)

    def settings(self) -> dict[str, Any]:
        """Settings for ``from_settings``, as JSON values, which contain classes and ranges but no rows of the data."""
        conditions = [  # a list: its order is the order of guidance
            {"name": name, "kind": module.kind, "arguments": module.constructor_arguments(), "facts": module.metadata}
            for name, module in cast(Mapping[str, ConditionModule], self.conditions).items()
        ]
        return {"width": self.width, "channels": self.channels, "conditions": conditions}

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> "Conditioner":
        """Build a conditioner for ``load_state_dict``. Raises ``UserError`` for damaged ``settings``."""
        package = import_module("echodream.diffusion.conditioning")
        for submodule in pkgutil.iter_modules(package.__path__):  # registers all conditions
            import_module(f"{package.__name__}.{submodule.name}")
        try:
            conditions: dict[str, nn.Module | None] = {}
            for item in settings["conditions"]:
                module = CONDITION_CLASSES[item["kind"]](**item["arguments"])
                module.metadata = dict(item["facts"])
                conditions[item["name"]] = module
            conditioner = cls(conditions, settings["width"])
            conditioner.build(settings["channels"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise UserError(f"the settings of the conditions are damaged ({reason}): train the model again") from error
        return conditioner
