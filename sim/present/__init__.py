"""Tables and files made of results. Nothing here computes a prediction."""
