"""The conversation: what to do with each byte of an answer, and what to ask for when the answer breaks off.

No I/O, no clock, no randomness; standard library only. Whoever drives this decides nothing, whoever is in here does
nothing.
"""
