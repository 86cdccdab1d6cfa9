"""What a user has on this machine: a folder for caches, and in it a relay of their own.

Knows no HTTP library, and imports nothing else of this package.
"""
