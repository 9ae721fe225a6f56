"""What a stage says when it ends: one screen."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Summary:
    """The outcome of a stage. ``problem`` is set when it did not do all that was asked: the exit status is then 1."""

    title: str
    facts: Mapping[str, object] = field(default_factory=dict)
    problem: str | None = None
    files: tuple[str, ...] = ()
    """What it wrote, by name, where dst holds files of other stages too."""

    def __str__(self) -> str:
        width = max((len(name) for name in self.facts), default=0)
        return "\n".join([self.title, *(f"  {name:<{width}}  {value}" for name, value in self.facts.items())])
