"""`TrainingDashboard`: its panels, and where they are shown."""
