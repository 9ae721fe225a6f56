"""Summary that a stage prints at its end."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Summary:
    """Result of a stage. A ``problem`` describes the part of the work that failed; the exit status is then 1."""

    title: str
    facts: Mapping[str, object] = field(default_factory=dict)
    problem: str | None = None
    files: tuple[str, ...] = ()
    """Names of the files that the stage wrote; only needed if dst also contains files of other stages."""

    def __str__(self) -> str:
        width = max((len(name) for name in self.facts), default=0)
        return "\n".join([self.title, *(f"  {name:<{width}}  {value}" for name, value in self.facts.items())])
