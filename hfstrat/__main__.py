"""`python -m hfstrat` is `hfstrat`; `accelerate launch -m hfstrat train RECIPE` starts here as well."""

from hfstrat.cli import main

if __name__ == "__main__":
    main()
