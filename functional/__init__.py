"""What is computed: the op table, the models as texts over an interpreter, their weights. Knows nothing of seconds or hardware."""
