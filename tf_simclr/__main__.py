"""`python -m tf_simclr`."""

from tf_simclr.main import cli

if __name__ == "__main__":
    cli()
