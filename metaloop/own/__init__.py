"""From a person's own examples to a predictor, without a run: the best features at hand, a head, and how far to trust
it."""
