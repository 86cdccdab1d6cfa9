"""What each protocol's events say, and how a model is asked to go on from a partial answer. One protocol a file."""
