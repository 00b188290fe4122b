"""Where S and Q come from: pools, which deal tasks."""

# drawings and photographs
from .glyphs import glyphs  # rendered characters, embedded
from .images import folder, mini_imagenet, read_folder, read_image  # your own; mini-ImageNet
from .omniglot import lake_runs, omniglot  # handwritten characters, downloaded; Lake's 20 fixed tasks

# random functions
from .functions import gaussians, sinusoid  # isort: skip

# what they are
from .pool import ClassPool, FixedPool, Pool  # isort: skip

__all__ = [
    "ClassPool", "FixedPool", "Pool", "folder", "gaussians", "glyphs", "lake_runs", "mini_imagenet", "omniglot",
    "read_folder", "read_image", "sinusoid",
]
