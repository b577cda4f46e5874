"""The commands that list what a setting may name: methods and protocols."""

from __future__ import annotations

import click


@click.command("methods")
def methods_command() -> None:
    """List the recipes: what each changes of the published PRISM, and what it does not have."""
    from prism_nb.recipes import differences, load_recipe, recipe_names

    for name in recipe_names():
        recipe = load_recipe(name)
        click.echo(f"{name:<16} {recipe.title}; {recipe.paper}")
        values = differences(recipe, load_recipe("prism"))
        if values:
            changed = ", ".join(f"{key} {value}" for key, value in values.items())
            click.echo(f"{'':<16} {changed}")
        if recipe.lacks:
            click.echo(f"{'':<16} lacks: {recipe.lacks}")
    click.echo("\nprism itself, from which the others differ:")
    prism = load_recipe("prism")
    for key, field in type(prism).model_fields.items():
        if key not in {"title", "paper", "lacks"}:
            click.echo(f"{'':<16} {key} {getattr(prism, key)}: {field.description}")


@click.command("protocols")
def protocols_command() -> None:
    """List the protocols: by what settings the papers label images and train students."""
    from prism_nb.protocols import protocol_names, protocol_values, protocol_words

    for name in protocol_names():
        words, values = protocol_words(name), protocol_values(name)
        click.echo(f"{name:<8} {words['title']}; {words['paper']}")
        click.echo(f"{'':<8} {', '.join(f'{key} {value}' for key, value in values.items())}")
