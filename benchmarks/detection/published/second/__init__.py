"""Programs after further published collections of faults, written without reading the diagnosis."""
