"""Parts of a film as files of their own: the picture to the frame, the sound in step with it. Through PyAV."""
