"""From a description of releases to (ε, δ): privacy loss distributions and Rényi divergences."""
