"""Triton kernels that do in one pass over memory what torch's compiler does in several.

Each file holds the kernels of one operation and the operator around them, with its gradient. The naive version is in
the caller, which imports these files only after `numerics.is_fusible` said yes.
"""
