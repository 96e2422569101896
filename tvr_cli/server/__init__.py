"""The library in a browser, and one resident session for whoever asks on this machine: `tvr serve`.

    guard      who may ask, and what: hosts, origins, tokens, sizes
    library    one session, one answer at a time; which files there are
    app        the addresses; static/ is the page
    agents     tools for agents, over the Model Context Protocol
    door       a socket for `tvr query` of the same user
    running    in the background, stopped, and found

It answers by the verbs of `api` and shows what these return; nothing is searched here. It needs the extra `serve`.
"""
