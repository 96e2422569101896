"""An answer as a page: one file that needs no network, no server and nothing beside it but the videos that it plays."""
