"""`python -m trainvitals.cli`: run the command when its script is not on the PATH."""

from trainvitals.cli import main

main()
