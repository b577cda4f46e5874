"""The pool as it is being put together, and its primary."""

from __future__ import annotations

from collections.abc import Callable

import ipywidgets as widgets


class PoolList(widgets.VBox):
    """The networks of a pool; `names` is the pool, and `primary` one of it or None.

    A primary that leaves the pool is missed, not replaced: another one gives other images.

    Args:
        names: The pool to start with.
        primary: Its primary.
        changed: Called after another primary is chosen, or networks are taken out, by hand.
    """

    def __init__(self, names: tuple[str, ...], primary: str, changed: Callable[[], None]) -> None:
        self._wanted, self._showing = primary, False
        self._changed = changed
        self.names = names
        self.members = widgets.SelectMultiple(
            description="Pool", rows=6, layout={"width": "auto"}
        ).add_class("prism-list")
        self.remove = widgets.Button(
            description="Remove from pool", tooltip="Take the selected networks out of the pool"
        )
        self.chosen = widgets.Dropdown(description="Primary", layout={"width": "420px"})
        super().__init__([self.members, widgets.HBox([self.remove, self.chosen])])
        self._show()
        self.chosen.observe(self._choose, names="value")
        self.remove.on_click(self._remove)

    @property
    def primary(self) -> str | None:
        """The primary, where one of the pool is chosen."""
        chosen: str | None = self.chosen.value
        return chosen

    @property
    def missed(self) -> str:
        """The primary that was chosen last, in the pool or not."""
        return self._wanted

    def put(self, names: tuple[str, ...]) -> None:
        """Make networks the pool; the primary that was wanted last is kept where it is in it."""
        self.names = tuple(dict.fromkeys(names))
        self._show()

    def _remove(self, _: object) -> None:
        self.put(tuple(name for name in self.names if name not in self.members.value))
        self._changed()

    def _show(self) -> None:
        self._showing = True
        # A browser that still had the old selection would look for it among the new options.
        self.members.value = ()
        self.members.options = self.names
        # New options choose the first of them by themselves; nobody has chosen it.
        self.chosen.options = self.names
        self.chosen.value = self._wanted if self._wanted in self.names else None
        self._showing = False

    def _choose(self, _: object) -> None:
        if not self._showing:
            self._wanted = self.chosen.value or self._wanted
            self._changed()
