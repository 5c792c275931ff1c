"""The rules, one file each. They share `signals`, `places` and `course`, and never each other."""
