"""From a public call to its contraction: the edge that all dialects share, and the verbs on a call."""
