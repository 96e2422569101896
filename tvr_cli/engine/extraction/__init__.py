"""From videos to a frame store: find, compare with the store, read in worker processes, write shard by shard."""
