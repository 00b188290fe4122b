"""What makes theta good: objectives (adapt, theta, task) -> (loss, info), losses of labelled embeddings, bounds."""

from types import ModuleType as _Module

from ..targets import accuracy as accuracy
from .alignment import confused as confused
from .alignment import csls as csls
from .alignment import cycle as cycle
from .alignment import procrustes as procrustes
from .alignment import profiles as profiles
from .alignment import reverse as reverse
from .disentangle import annealed as annealed
from .disentangle import beta_vae as beta_vae
from .disentangle import dip_vae as dip_vae
from .disentangle import factor_vae as factor_vae
from .disentangle import gaussian_tc as gaussian_tc
from .disentangle import tc_vae as tc_vae
from .disentangle import total_correlation as total_correlation
from .elbo import elbo as elbo
from .elbo import iwae as iwae
from .embedding import EmbeddingLoss as EmbeddingLoss
from .embedding import arcface as arcface
from .embedding import cosface as cosface
from .embedding import normface as normface
from .embedding import softmax as softmax
from .embedding import sphereface as sphereface
from .information import ba as ba
from .information import ba_upper as ba_upper
from .information import dv as dv
from .information import infonce as infonce
from .information import interpolated as interpolated
from .information import leave_one_out as leave_one_out
from .information import nwj as nwj
from .information import tuba as tuba
from .mined import from_pml as from_pml
from .mined import triplet as triplet
from .query import query_loss as query_loss
from .transport import Transport as Transport
from .transport import divergence as divergence
from .transport import geometric_loss as geometric_loss
from .transport import geometric_softmax as geometric_softmax
from .transport import sinkhorn as sinkhorn
from .transport import wasserstein as wasserstein

# Who is public stands above, in a line of its own, and nowhere else; `as` itself, which says so.
__all__ = sorted(  # pyright: ignore[reportUnsupportedDunderAll]
    name for name, it in globals().items() if not name.startswith("_") and not isinstance(it, _Module)
)
