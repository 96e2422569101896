"""What `engine.precompute` is made of, and training with the backbone in the loop: captions and frames to features."""
