"""Training that goes on after a fault: what is a fault, the rescue, its file, and the replay."""
