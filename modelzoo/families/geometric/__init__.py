"""Networks on geometric data: point sets, groups and manifolds."""
