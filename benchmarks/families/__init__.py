"""Published bases: their true configurations, and how large a concept of each is."""
