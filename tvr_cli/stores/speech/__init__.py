"""What is said and written in videos: subtitles beside them and text streams inside, kept searchable in a workspace."""
