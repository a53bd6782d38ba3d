"""The web app: photos in, pictures out, files to share, served on this machine.

studio.py holds the pipeline that all windows share, library.py the user's concepts, runs.py and
worker.py the trainings; a file per tab says what it does and how it looks; page.py puts them
together, api.py names what programs may call, server.py serves it.
"""
