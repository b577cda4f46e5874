"""The command that lists the networks a pool can be made of."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("catalogue")
@click.argument("words", nargs=-1)
@click.option("--family", default="", help="Of one family only, e.g. resnet.")
@click.option("--gflop", type=click.FloatRange(min=0), help="At most so many per image, forward.")
@click.option(
    "--rebuild", is_flag=True, help="Make it anew for the installed torchvision and timm."
)
def catalogue_command(
    words: tuple[str, ...], family: str, gflop: float | None, rebuild: bool
) -> None:
    """List the networks with batch norm whose names hold all WORDS; what a pool can be made of."""
    if rebuild:
        _rebuild()
        return
    from prism_nb.catalogue import filtered, read_catalogue

    entries = read_catalogue()
    found = filtered(entries, words=" ".join(words), family=family, gflop=gflop)
    click.echo(
        f"{'network':<40}{'family':<16}{'BN layers':>10}{'parameters':>13}{'GFLOP':>9}"
        f"{'pixels':>8}{'top-1 %':>9}  weights"
    )
    for e in found:
        accuracy = "" if e.accuracy is None else f"{e.accuracy:.1f}"
        click.echo(
            f"{e.name:<40}{e.family:<16}{e.bn_layers:>10}{e.parameters / 1e6:>11.1f} M"
            f"{e.flops / 1e9:>9.2f}{e.input_size:>8}{accuracy:>9}  {' '.join(e.weights)}"
        )
    click.echo(f"\n{len(found)} of {len(entries)} networks with batch norm")


def _rebuild() -> None:
    from importlib import resources

    from prism_nb import files
    from prism_nb.catalogue.entries import FILE
    from prism_nb.catalogue.rebuild import rebuild

    path = Path(str(resources.files("prism_nb.models"))) / FILE
    content = rebuild(lambda line: click.echo(line, err=True))
    files.write_text(path, content)
    click.echo(f"{content.count(chr(10)) - 1} networks in {path}")
