"""A frame store: reading (store), writing (writer), and which frames of which windows are kept (windows)."""
