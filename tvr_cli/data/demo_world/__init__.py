"""The toy world of `tvr demo`, "shapes in time": grammar (what happens, in words), render (pixels), corpus (files)."""
