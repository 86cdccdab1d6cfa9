"""Whoever performs what a conversation asks for: one driver for each colour, twins that decide nothing.

Nothing here knows an HTTP library; an exchange is opened by a function that the transports or the streams provide.
"""
