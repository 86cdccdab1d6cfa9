"""What the relay costs, measured against anchors: ``python -m benchmarks.relay``. Linux only, for it reads /proc."""
