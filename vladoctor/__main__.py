"""`python -m vladoctor`."""

from vladoctor.cli import main

if __name__ == "__main__":
    main()
