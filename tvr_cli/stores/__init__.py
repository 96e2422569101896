"""What lies on disk: frames, features, the index, a run's weights; and reading videos."""
