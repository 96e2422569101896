"""What lies on disk: frames, features and indexes, written shard by shard."""
