"""What results have in common: schema, JSON and back (`base`); metrics of both directions, and folding (`metrics`)."""
