"""A workspace that keeps up with its videos: `tvr watch`.

    looking    one look at the sources: which files there are, and what could not be looked at
    agenda     what has settled, what is still written, what has gone; what there is to do
    ears       who says that something changed: the system's events, or a clock
    passes     the work: frames, features, index, of what changed
    status     what a watcher says of itself, in a file of the workspace, and whether one runs
    budget     how much of the machine it takes
    watcher    the loop over all of these
    running    here, in the background, paused and ended

It does what `tvr extract-frames` and `tvr query` do, by the functions of the engine; nothing is read or encoded by
another way, so a watcher may be killed at any moment as those may, and what it began is taken over by the next.
"""
