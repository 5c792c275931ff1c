"""`python -m trainvitals`: the command, also where a launcher wants a module.

torchrun --nproc-per-node 2 -m trainvitals run train.py
"""

from trainvitals.cli import main

main()
