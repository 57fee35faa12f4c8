"""What an installation on AWS is made of, and what makes it."""
