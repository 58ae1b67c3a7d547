"""The chapter in plain NumPy."""
