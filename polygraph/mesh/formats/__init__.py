"""Readers of mesh and point-cloud files: bytes in, numbers out, in NumPy alone.

Every reader takes the whole file as bytes and its name for messages. What it returns is what the
file says, or it raises MeshError: counts of a header are compared with what was read, numbers with
their declared types, and nothing is skipped that it does not understand.
"""
