"""``python -m jaxseg``: the command ``jaxseg``."""

import sys

try:
    from jaxseg.evaluation._command import command
except ImportError as error:
    sys.exit(f'The command jaxseg needs more packages: pip install "jaxseg[evaluate]" ({error}).')


def main() -> None:
    """Run the command line."""
    command(prog_name="jaxseg")


if __name__ == "__main__":
    main()
