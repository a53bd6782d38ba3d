"""Claims, each measured against what else people have: a folder for speed, likeness and sizes."""
