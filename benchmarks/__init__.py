"""What resumable-llm costs, measured against the bare clients and against its peers: ``python -m benchmarks``."""
