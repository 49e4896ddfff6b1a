"""Every number of the embedded demo and of small forms of all families, kept as text."""
