"""The web app: photos in, pictures out, files to share, served on this machine.

page/ is what is seen, studio/ what is behind it, service/ how it is reached.
"""
