"""Options shared by commands that take a recipe."""

from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from lightning_apollo.recipe.conf import recipe_names


def complete_recipe(incomplete: str) -> list[str]:
    """Names of recipes that begin so, for the shell."""
    return [name for name in recipe_names() if name.startswith(incomplete)]


_HELP = "Name of a recipe in conf/recipe, or the path of a .yaml file."

RecipeArgument = Annotated[
    str, typer.Argument(metavar="RECIPE", help=_HELP, autocompletion=complete_recipe, show_default=False)
]
RecipeOption = Annotated[
    str | None, typer.Option(metavar="RECIPE", help=_HELP, autocompletion=complete_recipe, show_default=False)
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Values to put in the place of the recipe's.", show_default=False),
]


Checkpoint = Annotated[
    str,
    typer.Argument(
        metavar="CHECKPOINT", help="Folder of a finished stage or of an export, or a recipe for its last stage."
    ),
]


class AgainCommand(TyperCommand):
    """Command whose --again has a value behind `=` or none, and never takes the next word for one."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, ["--again=" if word == "--again" else word for word in args])
