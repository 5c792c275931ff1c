"""Read the values of a run from files and deliver them to a collector.

Comes in: a file of `trainvitals export`, TensorBoard event files, or an offline run of W&B.
Goes out: batches over the ordinary ingest route.
Promise:  a value of an exported file is stored with the same bits; a file is checked to its end
          before anything is sent; sending it twice stores it once.
Start at `sources.opened`; `batches` makes the batches, `delivery` sends them.
"""
