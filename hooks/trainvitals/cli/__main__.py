"""`python -m trainvitals.cli`: the command, where its script is not on the path."""

from trainvitals.cli import main

main()
