"""Features that other programs wrote, read as data, a sample a video: nothing is executed or unpacked to disk."""
