"""The search index: what it holds (store), and where it stands (place)."""
