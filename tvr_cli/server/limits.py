"""What a question from elsewhere may be at most, by whichever door it comes."""

MOST_K = 200  # moments of an answer
LONGEST = 2000  # letters of a question
LONGEST_CLIP_S = 3600.0  # of one moment that is cut, without its padding
ALL_CLIPS_S = 4 * 3600.0  # of the moments of one request, with it
LONGEST_PAD_S = 60.0
