"""F_theta : S -> f. One paper, one file."""
