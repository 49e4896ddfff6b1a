"""How other engines get a checkpoint, and which of them can read it."""
