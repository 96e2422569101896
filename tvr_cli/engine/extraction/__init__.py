"""What `engine.extract` is made of: finding videos, comparing them with the store, estimating the work."""
