"""The only floor that knows HTTP libraries: a transport for each family, to be put around any of its transports."""
