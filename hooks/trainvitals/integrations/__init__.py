"""Attach to programs and frameworks: one file for each, loaded only when it is used.

`script` watches a program that does not mention trainvitals: `trainvitals run train.py`.
"""
