"""What a question from elsewhere may be at most, by whichever door it comes."""

MOST_K = 200  # moments of an answer
LONGEST = 2000  # letters of a question
