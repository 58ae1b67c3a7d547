"""`TrainingHealth`: its checks, and what they look at."""
