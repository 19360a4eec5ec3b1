"""Predictions against measured hardware: measure it, calibrate a chip to it, validate predictions."""
