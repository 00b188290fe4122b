"""List the recipes."""

from .console import suggest, table

OPTIONS = ()


def run(args) -> None:
    from ..recipes import RECIPES

    rows = []
    for r in RECIPES.values():
        published = [f"{row.published:g}" for row in r.rows()]
        rows.append([r.name, r.summary, r.paper, r.data_name, " / ".join(published)])
    table(["recipe", "trains", "paper", "data", "published"], rows)
    suggest("metaloop train protonet-glyphs")
