"""The names of the parties that are no hospital: no site may be called so."""

POOL = "pool"
"""The centre. As a model's `train_site`: it belongs to no site."""

ORACLE = "oracle"
"""The party that may see all real data: it exists in a simulation only, for baselines."""
