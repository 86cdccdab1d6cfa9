"""What the relay is held against. Each serves on a socket that it is given, in a process of its own."""
