"""What a search is over: a recipe, or a function of the settings. Each makes a plan of what is chosen."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_type_hints

from ..core import Learner
from ..recipes.plan import Plan, Recipe, Row
from ..targets import units
from ..tasks.pool import Pool
from .search_space import Choice, Range, Space, anything, shown


@dataclass(frozen=True)
class Subject:
    """plan: settings -> the run. names: the settings that there are; None where any goes. read: (name, text) -> the
    value that a text says. about: by what else it is known. info: what run.json says of one. example: settings that
    always make a plan; None where only those of the space can."""

    name: str
    plan: Callable[[dict[str, Any]], Plan]
    names: list[str] | None
    read: Callable[[str, str], Any]
    about: dict[str, Any]
    info: Callable[[dict[str, Any], Plan], dict[str, Any]]
    example: dict[str, Any] | None = None

    def base(self, space: Space) -> Plan:
        """A plan, for what all have in common."""
        return self.plan({name: _corner(d) for name, d in space.items()} if self.example is None else self.example)


def subject_of(of: Any, pool: Pool | None, budget: str, options: dict[str, Any], info: dict[str, Any]) -> Subject:
    """of: a recipe or its name, or a function of the settings. options: of `search` that are none of its own."""
    if isinstance(of, str):
        from ..recipes import find

        of = find(of)
    if isinstance(of, Recipe):
        return _recipe(of, pool, budget, options, info)
    return _function(of, pool, options, info)


def _recipe(recipe: Recipe, pool: Pool | None, budget: str, options: dict[str, Any], info: dict[str, Any]) -> Subject:
    from ..recipes.keywords import find_setting, settings

    if unknown := set(options) - {"steps"}:
        raise ValueError(f"search: {sorted(unknown)[0]!r} is no option of a recipe; put it into the space.")
    given, steps, own = recipe.settings(budget), options.get("steps"), recipe.data() if pool is None else pool

    def plan(chosen: dict[str, Any]) -> Plan:
        return recipe.plan(own, steps=steps, budget=budget, settings={**given, **chosen})

    def info_of(chosen: dict[str, Any], plan: Plan) -> dict[str, Any]:
        said = {"recipe": recipe.name, "data": None, "budget": budget, "compile": False, **info}
        return {**said, "settings": {**given, **chosen}, "steps": plan.steps, "pool": own.outline()}

    def read(name: str, text: str) -> Any:
        return find_setting(recipe, name).read(text)

    about = {"budget": budget, "steps": steps, "data": info.get("data") or own.name}
    return Subject(recipe.name, plan, [*settings(recipe)], read, about, info_of, {})


def _function(make: Any, pool: Pool | None, options: dict[str, Any], info: dict[str, Any]) -> Subject:
    if not callable(make):
        raise ValueError(f"search: {make!r} is neither a recipe nor a function of the settings.")
    parameters, title = inspect.signature(make).parameters.values(), getattr(make, "__name__", type(make).__name__)
    names = [p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)]
    defaults = {"steps": 1000, "tasks": 32, "ways": 5, "shots": 1, "queries": 15}
    counts = {name: options.get(name, usual) for name, usual in defaults.items()}
    episode = {name: counts[name] for name in ("ways", "shots", "queries")}
    rest = {name: given for name, given in options.items() if name not in counts}

    def plan(chosen: dict[str, Any]) -> Plan:
        made = make(**chosen)
        if isinstance(made, Plan):
            return made
        learner, at_test = made if isinstance(made, tuple) and len(made) == 2 else (made, made)
        if not (isinstance(learner, Learner) and isinstance(at_test, Learner)):
            raise ValueError(f"search: {title} gives {type(made).__name__}, expected a Learner, two, or a Plan.")
        if pool is None:
            raise ValueError(f"search: {title} gives a learner. Give the pool that it learns on.")
        row = Row(pool.target.label(counts["ways"], counts["shots"]), at_test, **episode)
        return Plan(pool, learner, lambda ways=5: at_test, (row,), **counts, options=rest)

    def info_of(chosen: dict[str, Any], plan: Plan) -> dict[str, Any]:
        return {**info, "of": title, "settings": chosen}

    hints = get_type_hints(make) if inspect.isfunction(make) else {}

    def read(name: str, text: str) -> Any:
        """What is annotated as a float is one, though it is written as a whole number."""
        value = anything(text)
        return float(value) if hints.get(name) is float and type(value) is int else value

    told = {name: given for name, given in {**counts, **rest}.items() if isinstance(given, str | int | float | None)}
    about = {"options": told, "data": None if pool is None else pool.name}
    any_name = any(p.kind is p.VAR_KEYWORD for p in parameters)
    return Subject(title, plan, None if any_name else names, read, about, info_of)


def judged(plan: Plan) -> dict[str, Any]:
    """What makes two plans' scores comparable: the episode and the metric of the first row."""
    row = plan.rows[0]
    metric = row.metric.__name__ if row.metric else plan.pool.target.metric
    return {"ways": row.ways, "shots": row.shots, "queries": row.queries, "metric": metric}


def higher(plan: Plan) -> bool:
    """Whether more of the first row's metric is better: shares in per cent; all else of one's own is an error."""
    metric = plan.rows[0].metric
    return units(metric.__name__)[1].endswith("(%)") if metric else plan.pool.target.higher


def checked(space: Space, read: Callable[[str, str], Any]) -> Space:
    """The space, its values as the settings take them. Raises ValueError where one is of another kind."""
    for name, dimension in space.items():
        if isinstance(dimension, Choice):
            space[name] = Choice(tuple(read(name, shown(value)) for value in dimension.values))
        else:
            ends = [read(name, shown(end)) for end in (dimension.low, dimension.high)]
            whole = all(isinstance(end, int) for end in ends)
            space[name] = Range(*ends, log=dimension.log, whole=whole)
    return space


def _corner(dimension: Choice | Range) -> Any:
    return dimension.values[0] if isinstance(dimension, Choice) else dimension.low
