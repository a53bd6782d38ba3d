"""Published bases: their true configurations, and the size of a concept for each."""
