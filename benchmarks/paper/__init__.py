"""The paper's experiments, and those that answer its open questions."""
