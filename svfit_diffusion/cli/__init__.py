"""The `svfit` command: a file per group of commands; main.py only assembles them.

Each group has `add_command(commands)`, which adds its parsers. terminal.py is what they share.
Nothing imports this room but the scripts; its files import heavy libraries when a command runs.
"""
