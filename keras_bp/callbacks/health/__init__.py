"""`TrainingHealth`: its rules, and what they look at."""
