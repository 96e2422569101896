"""A feature store: reading (store), its shards (shards), writing (writer)."""
