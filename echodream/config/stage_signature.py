"""Parameters of the function of a stage, parsed from its source, because an import of the stage would import torch."""

import ast
from importlib.util import find_spec
from pathlib import Path
from typing import TypeAlias

InputPath: TypeAlias = str
"""Path of a store, an artifact, or another file or folder that a stage reads."""
ExtractorPath: TypeAlias = str
"""Text ``kind:path``, where ``path`` is a feature extractor that a stage reads."""
OutputPath: TypeAlias = str
"""Path of a folder that a stage writes."""
ENGINE_PARAMETERS = ("command", "code_version")
"""Parameters that echodream/engine.py passes to every stage, and that are not settings."""


def parameter_hints(target: str) -> dict[str, str]:
    """Setting -> type hint, for the parameters of the function ``target``, as written in its source."""
    module, _, name = target.rpartition(".")
    spec = find_spec(module) if module else None
    if spec is None or spec.origin is None:
        return {}
    body = ast.parse(Path(spec.origin).read_text(encoding="utf-8")).body
    arguments = [node.args for node in body if isinstance(node, ast.FunctionDef) and node.name == name]
    parameters = [parameter for function in arguments for parameter in (*function.args, *function.kwonlyargs)]
    hints = {parameter.arg: ast.unparse(parameter.annotation) for parameter in parameters if parameter.annotation}
    return {name: hint for name, hint in hints.items() if name not in ENGINE_PARAMETERS}


def allows_null(hint: str) -> bool:
    """Whether a parameter with the type hint ``hint`` accepts None."""
    return hint == "Any" or "None" in hint.split(" | ")
