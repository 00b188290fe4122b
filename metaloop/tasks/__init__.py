"""Where S and Q come from: pools, which deal tasks."""

from types import ModuleType as _Module

# ruff: isort: off
# drawings and photographs
from .glyphs import glyphs as glyphs  # rendered characters, embedded
from .images import folder as folder  # your own
from .images import mini_imagenet as mini_imagenet
from .mnist import mnist as mnist  # handwritten digits, downloaded
from .rotated import rotated_mnist as rotated_mnist
from .omniglot import lake_runs as lake_runs  # Lake's 20 fixed tasks
from .omniglot import omniglot as omniglot  # handwritten characters, downloaded
from .sprites import sprites as sprites  # every combination of five factors, generated

# your own, of any kind
from .arrays import arrays as arrays
from .own import dataset as dataset  # torch's
from .own import hashed_words as hashed_words
from .own import listed as listed  # pictures in a CSV
from .own import own as own  # whatever lies at a path
from .own import read_texts as read_texts
from .own import table as table
from .own import texts as texts
from .pickled import from_pickle as from_pickle  # of mini-ImageNet, CIFAR-FS, FC100, tieredImageNet

# random functions
from .functions import boolean as boolean
from .functions import gaussians as gaussians
from .functions import quadratic as quadratic
from .functions import semilinear as semilinear
from .functions import sinusoid as sinusoid

# tables
from .tables import pmlb as pmlb
from .tables_prior import tables_prior as tables_prior

# networks to train
from .problems import least_squares as least_squares
from .problems import problems as problems

# random distributions
from .distributions import distributions as distributions
from .distributions import planar as planar

# one after another
from .levels import copy_levels as copy_levels
from .levels import recall_levels as recall_levels
from .rainbow_mnist import rainbow_mnist as rainbow_mnist
from .streams import class_stream as class_stream
from .streams import omniglot_stream as omniglot_stream
from .streams import sine_stream as sine_stream

# sentences and their translations
from .translation import Vocabulary as Vocabulary
from .translation import multi30k as multi30k

# to be read in order
from .sequences import associative_recall as associative_recall
from .sequences import copy as copy
from .sequences import presentations as presentations

# what they are, and how to change them
from .pool import ClassPool as ClassPool
from .pool import FixedPool as FixedPool
from .pool import Pool as Pool
from .reading import read_folder as read_folder
from .reading import read_image as read_image
from .reading import read_images as read_images
from .varied import Beside as Beside
from .varied import Instances as Instances
from .varied import Varied as Varied
from .varied import distortions as distortions
from .varied import inverted as inverted
from .varied import strokes as strokes
from .varied import textured as textured
# ruff: isort: on

# Who is public stands above, in a line of its own, and nowhere else; `as` itself, which says so.
__all__ = sorted(  # pyright: ignore[reportUnsupportedDunderAll]
    name for name, it in globals().items() if not name.startswith("_") and not isinstance(it, _Module)
)
