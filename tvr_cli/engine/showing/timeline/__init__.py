"""The moments of an answer as a timeline for an editor: one model, and a writer for each format."""
