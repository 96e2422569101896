"""Models that turn pixels and captions into features."""
