"""Heads: from how alike examples are to scores of classes. All of them, and what is held out of them, by one matrix.

S = {(z_i, y_i)} are feature vectors with classes 0 .. K-1, u_i = (z_i - m) / |z_i - m| with m the mean over S, and
G_ij = u_i . u_j. A head's scores of x are a function of g_i = u_i . u(x) alone:

    nearest      s_k = max g_i over y_i = k                                                                  (1)
    prototypes   s_k = p_k . u(x) - |p_k|^2 / 2,   p_k the mean of u_i over y_i = k                             (2)
    logistic     s_k = a^2 sum_i A_ik g_i,  which minimises  sum_i w_i CE(s(x_i), y_i) + a^2 tr(A^T G A) / 2    (3)

(3) is logistic regression on a u with unit decay. w_i = n / (K n_k) gives all classes the same weight: how many
pictures somebody has of a class says nothing of how often it is met. Its Newton step needs a matrix for each state;
Bohning's bound, the softmax's Hessian <= I / 2, needs one for all, and decreases the loss with each step (Bohning,
Multinomial logistic regression algorithm, Annals of the Institute of Statistical Mathematics 44, 1992). Of more than
two classes half of the bound is tried first: it is near only where two of them share a p, and then steps are twice as
long.
"""

import torch
from torch import Tensor

HEADS = {"nearest": 0.0, "prototypes": 0.0, "logistic 5": 5.0, "logistic 10": 10.0, "logistic 20": 20.0}  # name -> a
BOUNDS = ((0.25, 400), (0.5, 2000))  # of the softmax's Hessian in (3), and how many steps at most
ROUGH = 1e-3  # `enough` where an example is held out


def centred(G: Tensor, w: Tensor) -> Tensor:
    """G of z [m, m] as that of u, for each row of w [f, m] (1: in S, 0: held out) as the mean over S alone: [f, m,
    m]."""
    share = w / w.sum(1, keepdim=True)
    mean = share @ G
    G = G - mean[:, :, None] - mean[:, None, :] + (mean * share).sum(1)[:, None, None]
    length = G.diagonal(dim1=1, dim2=2).clamp_min(1e-9).sqrt()
    return G / length[:, :, None] / length[:, None, :]


def coefficients(head: str, G: Tensor, Y: Tensor, w: Tensor, enough: float = 1e-6) -> Tensor:
    """A of (3), or the shares in prototypes, for G [f, n, n], Y [n, K] of 0 and 1, w [f, n]: [f, n, K], 0 where w is.
    (3) is done when A is w (y - p) to `enough`: there the loss has no slope."""
    members = w[:, :, None] * Y
    P = members / members.sum(1, keepdim=True).clamp_min(1)
    a = HEADS[head]
    if not a:
        return P
    G, known = a**2 * G * w[:, None, :] * w[:, :, None], w[:, :, None]
    weight = (P.sum(2) * w.sum(1, keepdim=True) / (members.sum(1) > 0).sum(1, keepdim=True))[:, :, None]  # w_i
    A = torch.zeros_like(members)
    for bound, steps in BOUNDS if Y.shape[1] > 2 else BOUNDS[1:]:
        step = torch.linalg.inv(bound * weight * G + torch.eye(G.shape[1], dtype=G.dtype))
        A = ahead = torch.zeros_like(members)
        since = torch.zeros(len(w), 1, 1, dtype=G.dtype)
        for _ in range(steps):
            slope = known * (weight * ((G @ ahead).softmax(-1) - Y) + ahead)
            new = known * (ahead - step @ slope)
            change = new - A
            wrong = ((ahead - new) * change).sum((1, 2), keepdim=True) > 0  # momentum leads astray: begin anew
            since = torch.where(wrong, 0.0, since + 1)
            A, ahead = new, new + since / (since + 3) * change  # Nesterov's
            if slope.abs().max() < enough:
                return A
    return A


def roughly(head: str, G: Tensor, Y: Tensor, w: Tensor) -> Tensor:
    """`coefficients` to try a head by: in float32, whose rounding is far below ROUGH, in 0.4 of the time."""
    return coefficients(head, G.float(), Y.float(), w.float(), ROUGH).to(G.dtype)


def scores(head: str, g: Tensor, A: Tensor, G: Tensor) -> Tensor:
    """(1) to (3) for g [f, q, n], with A [f, n, K] of `coefficients` at G [f, n, n]: [f, q, K]; -inf for classes
    without an example."""
    seen = A.transpose(1, 2) > 0
    if head == "nearest":
        return torch.stack([g.masked_fill(~seen[:, k, None], -torch.inf).amax(-1) for k in range(A.shape[2])], -1)
    if head == "prototypes":
        return g @ A - (A * (G @ A)).sum(1)[:, None] / 2
    return HEADS[head] ** 2 * (g @ A)


def closeness(g: Tensor, G: Tensor, members: Tensor) -> Tensor:
    """The cosine of each z with the mean z of each class: g [f, q, n] and G [n, n] of z, members [f, n, K] of 0 and 1;
    [f, q, K], -1 for classes without an example."""
    P = members / members.sum(1, keepdim=True).clamp_min(1)
    length = torch.einsum("fnk,nm,fmk->fk", P, G, P).clamp_min(1e-12).sqrt()
    return (g @ P / length[:, None]).masked_fill((members.sum(1) == 0)[:, None], -1)


def known(head: str, s: Tensor, close: Tensor) -> Tensor:
    """How much x is like one of the classes: max_k s_k / a + cos(z(x), mean z of k), [f, q]. The scores alone say to
    which class x is nearer than to the others, and of a thing that is none of them too little."""
    return (s / (HEADS[head] or 1.0) + close).amax(-1)


def folds_of(y: Tensor, most: int) -> Tensor:
    """Which fold each example is held out with: one of each class together, so that classes stay as even as they are;
    several where a class has more than `most`. The only example of a class never is: -1."""
    place = torch.stack([(y[:i] == y[i]).sum() for i in range(len(y))])
    counts = y.bincount()
    return torch.where(counts[y] > 1, place % min(int(counts.max()), most), -1)


def held_out(head: str, g: Tensor, Y: Tensor, folds: Tensor) -> Tensor:
    """The scores of each example by the head of the others, those of another fold, for g [F, n, n] centred on these:
    [n, K]; of no use where an example is never held out."""
    s = scores(head, g, roughly(head, g, Y, training(folds).to(g.dtype)), g)
    return s[folds.clamp_min(0), torch.arange(len(folds))]


def training(folds: Tensor) -> Tensor:
    """Which examples each fold learns from: [F, n] of bool."""
    return folds != torch.arange(int(folds.max()) + 1)[:, None]
