"""Memory outside of the weights: a recurrent network with slots that it reads and writes, in two ways of finding them.

similarity, of a key k and a slot m:    K(k, m) = k m / sqrt(|k|^2 |m|^2 + 1e-6),    so that it is 0 of what is empty
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from .sequence import LSTM

EMPTY = 1e-6  # what every number of a memory is before the first input


class Memory(nn.Module):
    """An LSTM with a memory M and a linear output, in `Recurrent`'s place:
    `net(x [T, ..., input], state=None) -> (y [T, ..., output], state)`.

        h_t = LSTM([x_t, r_{t-1}]),    r_t, M_t = access(h_t, M_{t-1}),    y_t = W [h_t, r_t] + b

    access: how the memory is addressed, `LeastUsed` or `Tape`, made for the same hidden. h and r start at zero. state:
    a pytree of all that changes.
    Raises ValueError if a sequence is longer than the memory was made for (access.longest).
    """

    def __init__(self, input: int, hidden: int, output: int, access: "LeastUsed | Tape"):
        super().__init__()
        self.access = access
        self.lstm, self.head = LSTM(input + access.read, hidden), nn.Linear(hidden + access.read, output)

    def forward(self, x: Float[Tensor, "time ... input"], state=None):
        if state is None:
            longest = self.access.longest
            if longest is not None and len(x) > longest:
                raise ValueError(
                    f"Memory: a sequence of {len(x)} inputs, the memory has {longest} slots. "
                    f"Take at most {longest}, or slots={len(x)}."
                )
            state = self.lstm.start(x[0]), x.new_zeros(*x.shape[1:-1], self.access.read), self.access.start(x[0])
        lstm, r, held = state
        outputs = []
        for x_t in x:
            h, lstm = self.lstm.step(torch.cat([x_t, r], -1), lstm)
            r, held = self.access(h, held)
            outputs.append(torch.cat([h, r], -1))
        return self.head(torch.stack(outputs)), (lstm, r, held)


class LeastUsed(nn.Module):
    """Least recently used access (Santoro et al. 2016), by `heads` that read and write: (h, state) -> (r, state).

        k, a = tanh(W h),  g = sigmoid(W h)                              of each head
        w^lu_j   one-hot at the j-th least used slot, by w^u_{t-1}       the single least used one is emptied
        w^w_j  = g_j w^r_j,{t-1} + (1 - g_j) w^lu_j,     M_t = M_{t-1} + sum_j w^w_j a_j
        w^r_j  = softmax_i K(k_j, M(i)),                 r_j = sum_i w^r_j(i) M_t(i)
        w^u_t  = decay w^u_{t-1} + sum_j (w^r_j + w^w_j)

    order: "write", then address M_t; or "address" M_{t-1} first, then write, and read M_t there.
    write: what is written, "add", a vector of its own, or the "key" k.
    Slots used alike are taken in their order. At the start all weights are at slot 0. A memory of fewer slots than
    inputs forgets what was used least.
    Raises ValueError on another order or write, or with fewer slots than heads.
    """

    longest = None

    def __init__(
        self, hidden: int, slots: int = 128, width: int = 40, heads: int = 4, *, decay: float = 0.95,
        order: str = "write", write: str = "add",
    ):  # fmt: skip
        super().__init__()
        if order not in ("write", "address") or write not in ("add", "key") or not 0 < heads <= slots:
            raise ValueError(
                f"LeastUsed({order=}, {write=}, {heads=}, {slots=}): expected order 'write' or 'address', write 'add' "
                "or 'key', and 1 head for a slot at most."
            )
        self.slots, self.width, self.heads, self.decay, self.order = slots, width, heads, decay, order
        self.read = heads * width
        self.size = self.read * (2 if write == "add" else 1)  # of k and a; or of k, which is a
        self.head = nn.Linear(hidden, heads + self.size)

    def start(self, like: Float[Tensor, "... input"]) -> tuple[Tensor, Tensor, Tensor]:
        """M [..., slots, width], w^r [..., heads, slots], w^u [..., slots] before the first input."""
        batch = like.shape[:-1]
        first = _first(like, self.slots).expand(*batch, -1)
        M = like.new_full((*batch, self.slots, self.width), EMPTY)
        return M, first[..., None, :].expand(*batch, self.heads, -1), first

    def forward(self, h: Float[Tensor, "... hidden"], state: tuple[Tensor, Tensor, Tensor]):
        M, w_r, w_u = state
        g, vectors = self.head(h).split((self.heads, self.size), -1)
        g, vectors = g.sigmoid()[..., None], vectors.tanh().reshape(*h.shape[:-1], -1, self.heads, self.width)
        k, a = vectors[..., 0, :, :], vectors[..., -1, :, :]
        least = least_used(w_u, self.heads)
        w_w = g * w_r + (1 - g) * least
        if self.order == "address":
            w_r = similarity(k, M).softmax(-1)
        M = M * (1 - least[..., 0, :, None]) + w_w.mT @ a
        if self.order == "write":
            w_r = similarity(k, M).softmax(-1)
        w_u = self.decay * w_u + (w_r + w_w).sum(-2)
        return (w_r @ M).flatten(-2), (M, w_r, w_u)


class Tape(nn.Module):
    """Addressing by content and by place (Graves et al. 2014), one head to read and one to write: (h, state) ->
    (r, state). Each head's weights w follow those that it had before:

        w_c(i) = softmax_i beta K(k, M(i))          content         beta = softplus
        w_g    = g w_c + (1 - g) w_{t-1}            interpolation   g = sigmoid
        w_s(i) = sum_j w_g(i - j) s(j)              shift           s = softmax over j = -1, 0, 1; slots in a circle
        w(i)   = w_s(i)^gamma / sum w_s^gamma       sharpening      gamma = 1 + softplus

        r = sum_i w^r(i) M(i),    then    M(i) <- M(i) (1 - w^w(i) e) + w^w(i) a            e = sigmoid

    Both heads address and the reading one reads what was there before. At the start all weights are at slot 0. A
    sequence has at most as many inputs as there are slots.
    """

    def __init__(self, hidden: int, slots: int = 128, width: int = 20):
        super().__init__()
        self.slots, self.width = self.longest, self.read = slots, width
        address = width + 6
        self.sizes = (address, address, width, width)
        self.head = nn.Linear(hidden, sum(self.sizes))

    def start(self, like: Float[Tensor, "... input"]) -> tuple[Tensor, Tensor, Tensor]:
        """M [..., slots, width], w^r and w^w [..., slots] before the first input."""
        first = _first(like, self.slots).expand(*like.shape[:-1], -1)
        return like.new_full((*first.shape, self.width), EMPTY), first, first

    def forward(self, h: Float[Tensor, "... hidden"], state: tuple[Tensor, Tensor, Tensor]):
        M, w_r, w_w = state
        to_read, to_write, e, a = self.head(h).split(self.sizes, -1)
        w_r, w_w = address(M, w_r, to_read), address(M, w_w, to_write)
        r = (w_r[..., None, :] @ M)[..., 0, :]
        M = M * (1 - w_w[..., None] * e.sigmoid()[..., None, :]) + w_w[..., None] * a[..., None, :]
        return r, (M, w_r, w_w)


def address(
    M: Float[Tensor, "... slots width"], before: Float[Tensor, "... slots"], head: Float[Tensor, "... numbers"]
) -> Float[Tensor, "... slots"]:
    """The weights of a head of `Tape`, from its width + 6 numbers: k, beta, g, s, gamma."""
    k, beta, g, s, gamma = head.split((M.shape[-1], 1, 1, 3, 1), -1)
    w = (F.softplus(beta) * similarity(k[..., None, :], M)[..., 0, :]).softmax(-1)
    w = g.sigmoid() * w + (1 - g.sigmoid()) * before
    back, stay, on = s.softmax(-1).split(1, -1)
    w = back * w.roll(-1, -1) + stay * w + on * w.roll(1, -1)
    return ((1 + F.softplus(gamma)) * (w + 1e-12).log()).softmax(-1)  # a power whose sum cannot vanish


def similarity(
    k: Float[Tensor, "... heads width"], M: Float[Tensor, "... slots width"]
) -> Float[Tensor, "... heads slots"]:
    """K(k, m) of each key and each slot; its derivative stays bounded where a slot is empty."""
    sizes = k.square().sum(-1)[..., None] * M.square().sum(-1)[..., None, :]
    return k @ M.mT / (sizes + 1e-6).sqrt()


def least_used(usage: Float[Tensor, "... slots"], n: int) -> Float[Tensor, "... n slots"]:
    """One-hot rows at the n least used slots, the least used first; of slots used alike, to 1e-6 for each slot that is
    between them, the first comes first. No gradient goes through the choice."""
    place = torch.arange(usage.shape[-1], device=usage.device)
    chosen = (usage.detach() + 1e-6 * place.to(usage)).topk(n, largest=False).indices
    return (chosen[..., None] == place).to(usage)


def _first(like: Tensor, slots: int) -> Tensor:
    """One-hot at slot 0."""
    return (torch.arange(slots, device=like.device) == 0).to(like)
