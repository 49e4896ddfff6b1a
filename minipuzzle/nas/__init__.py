"""Room 5: enumerate what fits, keep what importance ranks first, realise and rank."""
