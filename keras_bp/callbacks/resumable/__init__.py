"""Training that resumes where it was killed."""
