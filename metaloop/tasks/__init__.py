"""Where S and Q come from: pools, which deal tasks."""

# drawings and photographs
from .glyphs import glyphs  # rendered characters, embedded
from .images import folder, mini_imagenet  # your own; mini-ImageNet
from .mnist import mnist  # handwritten digits, downloaded
from .omniglot import lake_runs, omniglot  # handwritten characters, downloaded; Lake's 20 fixed tasks

# your own, of any kind
from .arrays import arrays  # isort: skip
from .own import dataset, hashed_words, listed, own, read_texts, table, texts  # isort: skip  # whatever lies in files
from .pickled import from_pickle  # isort: skip  # of mini-ImageNet, CIFAR-FS, FC100, tieredImageNet

# random functions
from .functions import boolean, gaussians, quadratic, semilinear, sinusoid  # isort: skip

# networks to train
from .problems import least_squares, problems  # isort: skip

# random distributions
from .distributions import distributions  # isort: skip

# one after another
from .rainbow_mnist import rainbow_mnist  # isort: skip
from .streams import class_stream, omniglot_stream, sine_stream  # isort: skip

# to be read in order
from .sequences import associative_recall, copy, presentations  # isort: skip

# what they are, and how to change them
from .pool import ClassPool, FixedPool, Pool  # isort: skip
from .reading import read_folder, read_image, read_images  # isort: skip
from .varied import Varied, distortions, strokes  # isort: skip

__all__ = [
    "ClassPool", "FixedPool", "Pool", "Varied", "arrays", "associative_recall", "boolean", "class_stream", "copy",
    "dataset", "distortions", "distributions", "folder", "from_pickle", "gaussians", "glyphs", "hashed_words",
    "lake_runs", "least_squares", "listed", "mini_imagenet", "mnist", "omniglot", "omniglot_stream", "own",
    "presentations", "problems", "quadratic", "rainbow_mnist", "read_folder", "read_image", "read_images", "read_texts",
    "semilinear", "sine_stream", "sinusoid", "strokes", "table", "texts",
]
