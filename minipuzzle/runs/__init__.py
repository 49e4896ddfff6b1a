"""The stages of a run, one file each: what it reads, what it writes, when it has nothing to do."""
