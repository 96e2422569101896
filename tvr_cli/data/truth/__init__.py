"""Truth about moments: which seconds of which video answer a query. One file a format; `formats.py` knows them all."""
