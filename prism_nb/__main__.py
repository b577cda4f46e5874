"""`python -m prism_nb` is the command `prism-nb`."""

from prism_nb.cli import main

if __name__ == "__main__":
    main()
