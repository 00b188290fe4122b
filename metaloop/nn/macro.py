"""All architectures of a small space as parts of one network, after Pham et al. 2018 (arXiv:1802.03268)."""

from collections.abc import Sequence

from torch import Tensor, nn

from .norms import norm


class Macro(nn.Module):
    """m(a; omega): a network of L layers, of which the tokens a say each one's operation and what skips to it.

        h_0 = norm(conv(x))
        h_l = norm(relu(norm(op_l(h_{l-1}))) + sum of the h_j that skip to l),    j < l - 1
        m   = linear(mean of h_L over positions)

    An operation of a layer has weights and norms of its own; what an architecture does not use is neither computed nor
    given a gradient. So the network is every architecture at once with shared weights, and one of them by itself if it
    is always given the same tokens.

    space: the tokens in their order, by name, and the values of each: "op1", "op2", "1to2"... `op1` is one of `ops`;
    `0to2` says whether h_0 skips to layer 2. shape: (channels, height, width) of x; h is half as high and wide,
    `filters` deep. norm_policy: "transductive" (of the architecture and batch at hand), or one of a single example's.
    Raises ValueError on an unknown operation, a norm that keeps statistics, or tokens that are none.
    """

    def __init__(
        self, shape: tuple[int, int, int], classes: int, *, layers: int = 3, filters: int = 8,
        ops: Sequence[str] = ("conv3", "conv5", "sep3", "max3"), norm_policy: str = "transductive",
    ):  # fmt: skip
        super().__init__()
        if wrong := [op for op in ops if op not in OPERATIONS]:
            raise ValueError(f"Macro: ops={tuple(ops)}: {wrong[0]!r} is none of {', '.join(OPERATIONS)}.")
        if norm_policy in ("running", "support"):
            raise ValueError(f"Macro: {norm_policy} statistics would be a mixture of architectures. Take transductive.")
        if layers < 1 or not ops:
            raise ValueError(f"Macro: layers={layers}, ops={tuple(ops)}: expected one at least.")
        self.layers, self.ops, self.space = layers, tuple(ops), dict[str, tuple]()
        for to in range(1, layers + 1):
            self.space[f"op{to}"] = self.ops
            self.space |= {f"{j}to{to}": (False, True) for j in range(to - 1)}
        made = lambda op: nn.Sequential(OPERATIONS[op](filters), norm(filters, norm_policy), nn.ReLU())
        self.stem = nn.Sequential(
            nn.Conv2d(shape[0], filters, 3, stride=2, padding=1, bias=False), norm(filters, norm_policy)
        )
        self.operations = nn.ModuleList(nn.ModuleList(made(op) for op in ops) for _ in range(layers))
        self.norms = nn.ModuleList(norm(filters, norm_policy) for _ in range(layers))
        self.score = nn.Linear(filters, classes)

    @property
    def sizes(self) -> list[int]:
        """How many values each token has."""
        return [len(values) for values in self.space.values()]

    def tokens(self, settings: dict) -> list[int]:
        """The tokens of a choice that is told by names and values, as a search has it."""
        return [values.index(settings[name]) for name, values in self.space.items()]

    def forward(self, x: Tensor, a: Sequence[int]) -> Tensor:
        """Scores [n, classes] of x [n, channels, height, width]; a: one index for each token of `space`."""
        if len(a) != len(self.space) or not all(0 <= i < size for i, size in zip(a, self.sizes, strict=True)):
            raise ValueError(f"Macro: the tokens are {list(a)}, expected {len(self.space)}, below {self.sizes}.")
        left, h = iter(a), [self.stem(x)]
        for to in range(1, self.layers + 1):
            more = self.operations[to - 1][next(left)](h[-1])  # type: ignore[index]
            skips = [h[j] for j in range(to - 1) if next(left)]
            h.append(self.norms[to - 1](sum(skips, more)))
        return self.score(h[-1].mean((2, 3)))


def _separable(filters: int) -> nn.Module:
    each = nn.Conv2d(filters, filters, 3, padding=1, groups=filters, bias=False)
    return nn.Sequential(each, nn.Conv2d(filters, filters, 1, bias=False))


# What a layer may be, from and to maps [n, filters, height, width].
OPERATIONS = {
    "conv3": lambda filters: nn.Conv2d(filters, filters, 3, padding=1, bias=False),
    "conv5": lambda filters: nn.Conv2d(filters, filters, 5, padding=2, bias=False),
    "sep3": _separable,
    "max3": lambda filters: nn.MaxPool2d(3, stride=1, padding=1),
    "mean3": lambda filters: nn.AvgPool2d(3, stride=1, padding=1),
}
