"""`python -m lorahub` is the command `lorahub`."""

from lorahub.cli.main import main

if __name__ == "__main__":
    main()
