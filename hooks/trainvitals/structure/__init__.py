"""What a model consists of: its parameters, each once, and the order of its modules.

Comes in: a model, and the calls of its modules. Goes out: `Parameter`s with their kinds, and for
each module its depth and the nonlinearity that follows it.
Promise:  nothing is changed and nothing is measured; capture and the remedies read the same facts.
Start at `parameters.parameters_of` and `order.ForwardOrder`.
"""
