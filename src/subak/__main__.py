"""`python -m subak` is `subak`."""

from subak.cli import main

if __name__ == "__main__":
    main()
