"""What is measured: one group a module, each with a TITLE, a NOTE, the IMPORTS of its clients, and its CASES."""
