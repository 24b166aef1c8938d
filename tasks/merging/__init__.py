"""Parts of stage merge: what may be merged, reading and writing weights a tensor at a time, and the model card."""
