"""The page docs/settings.md, made from the descriptions of the settings and recipe fields.

python -m tests.helpers.settings_page
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from prism_nb.core.recipe import Recipe
from prism_nb.core.settings import Settings, group_of

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"
HEAD = """# Settings

Made by `make docs` from the descriptions in [core/settings.py](../prism_nb/core/settings.py) and
[core/recipe.py](../prism_nb/core/recipe.py). Presets, `--set` and notebook parameters use these
names. A setting that decides results cannot change once a run has such results; the settings under
*machine* and *source* may always change.
"""


def settings_page() -> str:
    """Return the page's text."""
    groups: dict[str, dict[str, FieldInfo]] = {}
    for name, field in Settings.fields().items():
        group = group_of(name)
        groups.setdefault(group.name if group else "names", {})[name] = field
    parts = [HEAD, *(_table(group.capitalize(), fields) for group, fields in groups.items())]
    recipe = "Fields of a recipe, under `recipe: {...}` or `recipes: {method: {...}}`"
    return "\n".join([*parts, _table(recipe, Recipe.model_fields)])


def _table(title: str, fields: dict[str, FieldInfo]) -> str:
    lines = [f"## {title}", "", "| name | default | meaning |", "|---|---|---|"]
    for name, field in fields.items():
        meaning = (field.description or "").replace("|", "\\|")
        choices = _choices(field.annotation)
        if choices:
            meaning = f"{choices}; {meaning}" if meaning else choices
        lines.append(f"| `{name}` | {_default(field)} | {meaning} |")
    return "\n".join([*lines, ""])


def _choices(annotation: Any) -> str:
    values = [value for value in get_args(annotation) if isinstance(value, str)]
    return " \\| ".join(f"`{value}`" for value in values)


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return "required"
    if isinstance(value, tuple):
        value = list(value)
    return (
        ""
        if value in (None, "", [], {})
        else f"`{str(value).lower() if isinstance(value, bool) else value}`"
    )


if __name__ == "__main__":
    PAGE.write_text(settings_page(), encoding="utf-8")
