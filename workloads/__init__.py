"""What must be done: the op graph traced from the golden text, scenarios and passes over the graph. Knows nothing of seconds or chips."""
