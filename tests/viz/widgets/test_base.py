"""Lists whose options change."""

import ipywidgets

from prism_nb.viz.widgets.base import set_options


def test_a_list_is_unselected_before_its_options_change() -> None:
    control = ipywidgets.SelectMultiple(options=["a", "b", "c"], value=["b", "c"])
    seen: list[tuple[str, ...]] = []
    control.observe(lambda _: seen.append(control.value), names="options")
    set_options(control, ["c", ("the d", "d")])
    assert seen == [()]
    assert control.value == ("c",)
