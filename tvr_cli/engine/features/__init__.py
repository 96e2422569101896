"""From frames and captions to a feature store, and to the features that a run or a query needs."""
