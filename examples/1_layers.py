"""
Layers
======

Stub.
"""

print(1)
