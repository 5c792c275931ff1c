"""Does the diagnosis see faults of post-training, and is it silent on healthy policy gradients?

`make bench-post-training` trains tiny autoregressive policies on CPU. Start at
`bench.measure`.
"""
