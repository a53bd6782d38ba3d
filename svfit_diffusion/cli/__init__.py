"""The `svfit` command: a file per group of commands; main.py assembles them."""
