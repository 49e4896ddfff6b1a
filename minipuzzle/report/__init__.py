"""Room 9: results as tables, pictures and one page."""
