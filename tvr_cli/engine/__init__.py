"""What the commands do. Parts import downwards in this order (`tests/test_layers.py` holds it): device, scorers,
extraction, features, evaluation, training, searching, showing, whole."""
