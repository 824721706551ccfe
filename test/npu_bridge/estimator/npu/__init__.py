"""NPUEstimator, its configuration, optimizers, hooks and scopes."""
