"""From sentences to hits: the index of a workspace, kept as new as its store and run, and the two-stage search."""
