"""The app as a Space starts it, or `python app.py`: the same as `lorahub app`, with its options and environment."""

import sys

from lorahub.cli.main import main

if __name__ == "__main__":
    sys.argv[1:1] = ["app"]
    main()
