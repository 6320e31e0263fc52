"""Card-fraud detection, the worked example: a generator, features, rules and models."""
