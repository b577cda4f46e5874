"""The list of candidates: filtered as one types, a line of numbers per network."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

import ipywidgets as widgets

from prism_nb.catalogue import SORTS, filtered
from prism_nb.widgets.candidate import Candidate
from prism_nb.widgets.style import padded, said

_HEAD = (
    f"{'network':<36} {'family':<13} {'from':<11} {'BN':>4} {'par. M':>7} {'GFLOP':>8} "
    f"{'px':>4} {'top-1':>6} {'on':<11}"
)
_MOST = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0)  # offered as bounds, in GFLOP


class CandidateList(widgets.VBox):
    """A filter over candidates, and those that fit it; `chosen` are the selected ones."""

    def __init__(self, entries: Sequence[Candidate]) -> None:
        self._entries = list(entries)
        families = sorted({entry.family for entry in entries})
        origins = list(dict.fromkeys(entry.library for entry in entries))
        self.words = widgets.Text(
            description="Filter", placeholder="parts of a name, e.g. resnet 50", layout=_wide(300)
        )
        self.family = _dropdown("Family", _or_any("any", families))
        self.origin = _dropdown("From", _or_any("anywhere", origins))
        self.gflop = _dropdown("Cost", [("any", 0.0), *((f"≤ {m:g} GFLOP", m) for m in _MOST)])
        self.sort = _dropdown("Sort by", _or_any("as listed", SORTS))
        self.found = widgets.SelectMultiple(
            description="Candidates", rows=10, layout={"width": "auto"}
        ).add_class("prism-list")
        self.count = widgets.HTML()
        super().__init__(
            [
                widgets.HBox([self.words, self.family, self.origin]),
                widgets.HBox([self.gflop, self.sort, self.count]),
                widgets.HTML(f'<div class="prism-head">{html.escape(_HEAD)}</div>'),
                self.found,
            ]
        )
        for control in (self.words, self.family, self.origin, self.gflop, self.sort):
            control.observe(lambda _: self._filter(), names="value")
        self._filter()

    @property
    def chosen(self) -> tuple[Candidate, ...]:
        """The candidates that are selected, in the order of the list."""
        wanted = set(self.found.value)
        return tuple(entry for entry in self._entries if entry.name in wanted)

    def _filter(self) -> None:
        fits = filtered(
            self._entries,
            words=self.words.value,
            family=self.family.value,
            library=self.origin.value,
            gflop=self.gflop.value or None,
            sort=self.sort.value,
        )
        kept = [entry.name for entry in fits if entry.name in self.found.value]
        # A browser that still had the old selection would look for it among the new options.
        self.found.value = ()
        self.found.options = [(line_of(entry), entry.name) for entry in fits]
        self.found.value = kept
        text = f"{len(fits)} of {len(self._entries)} networks with batch norm"
        if not fits:
            text = "No network fits: shorten the filter, or allow any family, origin and cost"
        self.count.value = said(text, "quiet" if fits else "note")


def line_of(entry: Candidate) -> str:
    """Return a candidate as one line, in columns."""
    accuracy = "–" if entry.accuracy is None else f"{entry.accuracy:.1f}"
    measured_on = "" if entry.accuracy is None else _cut(entry.measured_on, 11)
    flops = entry.flops / 1e9
    return padded(
        f"{_cut(entry.name, 36):<36} {_cut(entry.family, 13):<13} {_cut(entry.library, 11):<11} "
        f"{entry.bn_layers:>4} {entry.parameters / 1e6:>7.2f} "
        f"{flops:>8.{2 if flops >= 1 else 4}f} {entry.input_size or '':>4} {accuracy:>6} "
        f"{measured_on:<11}"
    )


def _cut(text: str, most: int) -> str:
    """Shorten a name in its middle: both ends tell networks and files apart."""
    half = most // 2
    return text if len(text) <= most else f"{text[:half]}…{text[len(text) - most + half + 1 :]}"


def _or_any(word: str, values: Iterable[str]) -> list[tuple[str, str]]:
    """Return options for values, headed by one that asks for nothing."""
    return [(word, ""), *((value, value) for value in values)]


def _dropdown(name: str, options: Sequence[object]) -> widgets.Dropdown:
    return widgets.Dropdown(
        description=name,
        options=options,
        layout=_wide(215),
        style={"description_width": "58px"},
    )


def _wide(pixels: int) -> dict[str, str]:
    return {"width": f"{pixels}px"}
