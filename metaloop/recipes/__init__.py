"""Complete runs, each named for the published row it reproduces: a module for each learner or outer loop, with its plan
functions and its list `RECIPES`. Modules are found here by themselves; all their recipes are `RECIPES`, by name.
"""

from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING

from .keywords import Setting, meant, settings
from .plan import Figure, Plan, Recipe, Row

if TYPE_CHECKING:
    from ..tasks.pool import Outline

__all__ = ["RECIPES", "Figure", "Outline", "Plan", "Recipe", "Row", "Setting", "find", "settings"]

# What recipes share; every other module is a system's.
HELPERS = {"data", "keywords", "networks", "optim", "plan", "stored"}
SYSTEMS = sorted(module.name for module in iter_modules(__path__) if module.name not in HELPERS)

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe for system in SYSTEMS for recipe in import_module(f".{system}", __name__).RECIPES
}


def find(name: str) -> Recipe:
    """The recipe of that name. Raises ValueError, suggesting the nearest, if there is none."""
    if name in RECIPES:
        return RECIPES[name]
    raise ValueError(f"there is no recipe '{name}'.{meant(name, RECIPES)} `metaloop recipes` lists all.")


def __getattr__(name: str):
    if name != "Outline":  # it is a pool, which needs torch
        raise AttributeError(f"module 'metaloop.recipes' has no attribute '{name}'")
    from ..tasks.pool import Outline

    return Outline
