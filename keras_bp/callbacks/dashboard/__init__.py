"""`TrainingDashboard`: its panels and its screens."""
