"""Pages, tables and pictures about finished runs, made from their records alone."""
