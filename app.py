"""The web app, the same as `svfit app`: open the address that it prints."""

import sys

from svfit_diffusion.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["app", *sys.argv[1:]]))
