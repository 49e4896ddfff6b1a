"""Which model to cut: enumerate what fits, keep what importance ranks first, evaluate and rank."""
