"""List the recipes, or the settings of one."""

import json
from typing import Any

from .console import say, suggest, table, tell
from .options import JSON, option

OPTIONS = (option("recipe", nargs="?", metavar="RECIPE", help="tell its settings"), JSON)


def run(args) -> None:
    from ..recipes import RECIPES, find

    if args.recipe is not None:
        return one(find(args.recipe), args.json)
    if args.json:
        return tell([about(recipe) for recipe in RECIPES.values()])
    rows = []
    for r in RECIPES.values():
        published = [f"{row.published:g}" for row in r.rows()]
        rows.append([r.name, r.summary, r.paper, r.data_name, " / ".join(published)])
    table(["recipe", "trains", "paper", "data", "published"], rows)
    suggest("metaloop train protonet-glyphs")


def about(recipe) -> dict[str, Any]:
    """What a recipe is, in JSON's terms."""
    from dataclasses import asdict

    told = {"recipe": recipe.name, "trains": recipe.summary, "paper": recipe.paper, "data": recipe.data_name}
    return {**told, "published": [asdict(figure) for figure in recipe.rows()]}


def one(recipe, as_json: bool) -> None:
    """A recipe with its settings in each budget."""
    from ..recipes import settings

    budgets = ("full", "quick", "smoke")
    steps = {b: recipe.budgets[b].get("steps", recipe.budgets["full"]["steps"]) for b in budgets}
    known = settings(recipe)
    if as_json:
        rows = [{"name": s.name, "kind": s.words, **{b: s.values[b] for b in budgets}} for s in known.values()]
        return tell({**about(recipe), "steps": steps, "settings": rows})
    say(f"{recipe.name}: {recipe.summary}; {recipe.paper}, on {recipe.data_name}")
    for figure in recipe.rows():
        spread = "" if figure.published_ci is None else f" ± {figure.published_ci:g}"
        say(f"published: {figure.label} {figure.published:g}{spread}")
    rows = [[s.name, s.words, *(shown(s.values[b]) for b in budgets)] for s in known.values()]
    table(["setting", "kind", *budgets], [["--steps", "a whole number", *(str(steps[b]) for b in budgets)], *rows])
    name = next(iter(known))
    suggest(f"metaloop train {recipe.name} --set {name}={shown(known[name].published)}")


def shown(value) -> str:
    """A value as `--set` reads it."""
    if value is None:
        return "none"
    if isinstance(value, tuple) and not any(isinstance(one, tuple) for one in value):
        return ",".join(map(shown, value))
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
