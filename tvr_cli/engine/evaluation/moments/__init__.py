"""Judging moments: counting as each data set's own code counts, query-blind priors, intervals. numpy only."""
