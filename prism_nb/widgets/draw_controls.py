"""How BN teachers are drawn: the fields of a recipe that say so, as controls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ipywidgets as widgets

from prism_nb.recipes import Recipe
from prism_nb.settings import Settings
from prism_nb.widgets.style import said

_SELECTIONS = (
    ("at random, once per unit (pre)", "pre"),
    ("at random, again and again (intra)", "intra"),
    ("all of them, at every step (all)", "all"),
    ("one per step, in turn (round_robin)", "round_robin"),
    ("as named (fixed)", "fixed"),
)
_PRIMARY = (
    ("always a BN teacher", "always"),
    ("drawn like the others (candidate)", "candidate"),
    ("never a BN teacher", "never"),
)
_FIELDS = (
    "selection",
    "redraw_every",
    "primary_in_bn",
    "bn_slots",
    "bn_probability",
    "bn_subset",
    "bn_fixed",
)


def drawing_methods(settings: Settings) -> list[str]:
    """Return the methods of a run that PRISM's draw is meant for.

    Those are PRISM's own recipes and what is based on them. Rivals stay as published, which is
    why a strategy goes to `recipes` of a method and not to the `recipe` of all.
    """
    return [
        method
        for method in settings.methods
        if str(settings.recipes.get(method, {}).get("base", method)).startswith("prism")
    ]


class DrawControls(widgets.VBox):
    """Controls for the draw of one method at a time; `changes` are those of all.

    Args:
        settings: What they start from.
        changed: Called after every change by hand.
    """

    def __init__(self, settings: Settings, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._begun = {m: _draw_of(settings.recipe_of(m)) for m in drawing_methods(settings)}
        self._now = {method: dict(values) for method, values in self._begun.items()}
        self._loading = False
        self.method = _dropdown("Method", list(self._begun))
        self.selection = _dropdown("Draw", _SELECTIONS)
        self.redraw_every = _integer("Steps per draw", 1, 1_000_000)
        self.primary_in_bn = _dropdown("The primary is", _PRIMARY)
        self.exact = _dropdown(
            "How many", [("each slot filled by chance", False), ("an exact number", True)]
        )
        self.bn_slots = _integer("Slots", 0, 999)
        self.bn_probability = widgets.BoundedFloatText(
            description="Chance per slot", min=0, max=1, step=0.05, **_look()
        )
        self.bn_subset = _integer("Number drawn", 1, 999)
        self.bn_fixed = widgets.SelectMultiple(description="BN teachers", rows=5, **_look())
        self._controls = (
            *(self.selection, self.redraw_every, self.primary_in_bn, self.exact, self.bn_slots),
            *(self.bn_probability, self.bn_subset, self.bn_fixed),
        )
        self._box = widgets.Box(self._controls, layout=_flow())
        super().__init__([self.method, self._box] if self._begun else [_nothing()])
        self.offer(settings.teachers, settings.primary)
        self.method.observe(lambda _: self._look_at(), names="value")
        for control in self._controls:
            control.observe(lambda _: self._store(), names="value")
        self._load()

    @property
    def changes(self) -> dict[str, dict[str, Any]]:
        """What differs from the start, by method: values of `recipes` in settings."""
        found = {
            method: {n: v for n, v in values.items() if v != self._begun[method][n]}
            for method, values in self._now.items()
        }
        return {method: values for method, values in found.items() if values}

    def offer(self, pool: tuple[str, ...], primary: str) -> None:
        """Let `fixed` name the members of a pool; those that have left it are taken out."""
        others = [name for name in pool if name != primary]
        for values in self._now.values():
            values["bn_fixed"] = [name for name in values["bn_fixed"] if name in others]
        self._loading = True
        # A browser that still had the old selection would look for it among the new options.
        self.bn_fixed.value = ()
        self.bn_fixed.options = others
        self._loading = False
        self._load()

    def _look_at(self) -> None:
        self._load()
        self._changed()

    def _load(self) -> None:
        """Show the values of the method that is looked at."""
        if self.method.value is None:
            return
        values = self._now[self.method.value]
        self._loading = True
        for name in _FIELDS:
            if name not in {"bn_subset", "bn_fixed"}:
                getattr(self, name).value = values[name]
        self.exact.value = values["bn_subset"] is not None
        self.bn_subset.value = values["bn_subset"] or 1
        self.bn_fixed.value = values["bn_fixed"]
        self._loading = False
        self._show_what_matters()

    def _store(self) -> None:
        if self._loading:
            return
        values = self._now[self.method.value]
        for name in _FIELDS:
            values[name] = getattr(self, name).value
        values["bn_subset"] = self.bn_subset.value if self.exact.value else None
        values["bn_fixed"] = list(self.bn_fixed.value)
        self._show_what_matters()
        self._changed()

    def _show_what_matters(self) -> None:
        kind, drawn = self.selection.value, self.selection.value in {"pre", "intra"}
        _show(self.redraw_every, kind == "intra")
        _show(self.exact, drawn)
        _show(self.bn_slots, drawn and not self.exact.value)
        _show(self.bn_probability, drawn and not self.exact.value)
        _show(self.bn_subset, drawn and self.exact.value)
        _show(self.bn_fixed, kind == "fixed")


def _nothing() -> widgets.HTML:
    text = "Nothing to set: no method of this run draws BN teachers from the pool as PRISM does. "
    return widgets.HTML(said(text + "Add one to methods, such as prism, to choose how.", "plain"))


def _draw_of(recipe: Recipe) -> dict[str, Any]:
    values = recipe.plain()
    return {name: values[name] for name in _FIELDS}


def _show(control: widgets.Widget, shown: bool) -> None:
    control.layout.display = "" if shown else "none"


def _look() -> dict[str, Any]:
    return {"layout": {"width": "400px"}, "style": {"description_width": "110px"}}


def _flow() -> dict[str, str]:
    return {"flex_flow": "row wrap"}


def _dropdown(name: str, options: Any) -> widgets.Dropdown:
    return widgets.Dropdown(description=name, options=options, **_look())


def _integer(name: str, least: int, most: int) -> widgets.BoundedIntText:
    return widgets.BoundedIntText(description=name, min=least, max=most, **_look())
