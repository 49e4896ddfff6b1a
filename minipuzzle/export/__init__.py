"""Room 9: how other engines get a checkpoint, and which of them can read it."""
