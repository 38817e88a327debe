"""Who takes part in a step: one sampler for every way of sampling that the accountant describes."""
