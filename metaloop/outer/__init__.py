"""How theta improves, where that is not meta-gradient descent on tasks dealt at random."""

from .controller import Controller, Policy, reinforce, search_by
from .enas import Shared, enas
from .episodic_memory import episodic_memory, forgetting, project
from .follow_leader import follow_leader
from .search import Found, Trial, search
from .search_law import chance_of_top, draws_for_top, expected_best, expected_rank
from .search_space import Choice, Range
from .search_table import Table, evaluate_table, read_table

__all__ = [
    "Choice", "Controller", "Found", "Policy", "Range", "Shared", "Table", "Trial", "chance_of_top", "draws_for_top",
    "enas", "episodic_memory", "evaluate_table", "expected_best", "expected_rank", "follow_leader", "forgetting",
    "project", "read_table", "reinforce", "search", "search_by",
]  # fmt: skip
