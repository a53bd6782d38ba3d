"""The web app: a page that draws pictures with concepts, served on this machine.

studio.py holds the pipeline that all windows share, actions.py what the page and its API can do,
page.py how it looks, server.py how it is served.
"""
