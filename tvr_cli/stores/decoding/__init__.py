"""Reading videos: types (what a decoder gives), one file a back-end, choose, sample (a video in, JPEG frames out), pool
(doing it in processes of their own)."""
